"""What each process of a distributed training run comes to, for the test that compares them; torchrun starts it."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from charlm.models.bigram import BigramLanguageModel
from charlm.random import generator
from charlm.training import processes
from charlm.training.loop import train
from tests.models_for_tests import TEST, TRAIN, Mean, V, settings

RULES = {"grad_clip": 0.5, "warmup_iters": 10, "schedule": "cosine", "weight_decay": 0.1}
CASES = [
    (model, {"gradient_accumulation_steps": 4, "batch_size": 5, "precision": precision} | RULES)
    for model in (BigramLanguageModel, Mean)
    for precision in ("float64", "float32")
] + [(Mean, {"gradient_accumulation_steps": 12, "batch_size": 1, "block_size": 3, "precision": "float64"})]


def results(joined: processes.Processes | None) -> list[list[str]]:
    """For each of the CASES every bit of the loss curve and of the weights."""
    return [_result(*case, joined) for case in CASES]


def _result(kind: type, changes: dict[str, object], joined: processes.Processes | None) -> list[str]:
    params = settings(**changes)
    model = kind(V, params.block_size, generator(1, "weights")).compute_in(params.precision)
    points = [asdict(point) for point in train(model, (TRAIN, TEST), params, generator(1, "batches"), processes=joined)]
    return [repr(points), *(weight.detach().numpy().tobytes().hex() for weight in model.parameters())]


if __name__ == "__main__":
    with processes.joined(torch.device("cpu"), dict) as joined:
        Path(sys.argv[1], str(processes.rank())).write_text(json.dumps(results(joined)))
