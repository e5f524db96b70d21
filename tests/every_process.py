"""Every bit that a training run comes to, of several models, for the tests that compare processes and machines.

torchrun starts it for several processes; `make exactness` runs it on every kind of machine that this one can be.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from charlm.models import trainable_class
from charlm.models.base import LanguageModel
from charlm.models.bigram import BigramLanguageModel
from charlm.random import generator
from charlm.training import launcher, processes
from charlm.training.loop import train
from charlm.training.resume import State, Unfinished
from tests import plain
from tests.lstm import LSTM
from tests.models_for_tests import TEST, TRAIN, Mean, V, settings

RULES: dict[str, Any] = {"grad_clip": 0.5, "warmup_iters": 10, "schedule": "cosine", "weight_decay": 0.1}
FOUR: dict[str, Any] = {"gradient_accumulation_steps": 4, "batch_size": 5} | RULES
CASES = [
    (kind, FOUR | {"precision": precision, "max_iters": 20})
    for kind in (BigramLanguageModel, Mean)
    for precision in ("float64", "float32")
] + [(Mean, {"gradient_accumulation_steps": 12, "batch_size": 1, "block_size": 3, "max_iters": 20})]
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_window": 3, "dropout": 0.1}
EXACT: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "bigram": ("bigram", {}, {"max_iters": 200}),
    "MLP": ("mlp", {"n_context": 3, "n_embd": 8, "n_hidden": 16}, {"max_iters": 60, "optimizer": "muon"}),
    "GRU": ("gru", {"n_embd": 8, "n_hidden": 16, "dropout": 0.1}, {"max_iters": 20}),
    "GPT": ("gpt", SMALL, {"max_iters": 50, "optimizer": "muon"}),
    "GPT, six times the rate": ("gpt", SMALL, {"max_iters": 40, "learning_rate": 0.06}),
    "LSTM": ("lstm", {"n_embd": 8, "n_hidden": 16}, {"max_iters": 20}),
    # Large enough for several threads to share its operations.
    "GPT, larger": ("gpt", SMALL | {"n_embd": 64}, {"max_iters": 4, "block_size": 64, "batch_size": 16}),
}
"""Models whose result no machine changes: name, settings, and changes of FOUR."""
HOT = "GPT, six times the rate"
SHORT, LONG = 0.2, 2
"""Times as many iterations, in the tests and in the whole grid."""


def results(joined: processes.Processes | None, folder: Path, length: float = SHORT) -> dict[str, Any]:
    """What this machine and these processes come to.

    `float64`: the digest of HOT, which a machine does change; `exact`: the digests of EXACT, whose states halfway are
    left in `folder`/after; `resumed`: of those whose states are in `folder`/before.
    """
    first = launcher.rank() == 0
    return {
        "float64": digest(HOT, joined, precision="float64", length=length),
        "float32": plain.digest("nanoGPT", 3, nullcontext),
        "exact": {
            name: digest(name, joined, length=length, save=_unfinished(folder / "after", name).save if first else None)
            for name in EXACT
        },
        "plain": {name: plain.digest(name, max(2, round(2 * length))) for name in plain.MODELS},
        "resumed": resumed(joined, folder / "before"),
    }


def resumed(joined: processes.Processes | None, folder: Path) -> dict[str, str]:
    """The digests of those EXACT models whose states are in `folder`, going on from there."""
    states = {name: _unfinished(folder, name).load() for name in EXACT}
    return {name: digest(name, joined, state=state) for name, state in states.items() if state is not None}


def order(joined: processes.Processes | None) -> dict[str, Any]:
    """Every bit of the loss curve and of the weights of CASES, which another order of adding would change."""
    return {"order": [_result(*case, joined) for case in CASES]}


def _unfinished(folder: Path, name: str) -> Unfinished:
    return Unfinished(folder, {"of": name})


def _result(kind: type[LanguageModel], changes: dict[str, Any], joined: processes.Processes | None) -> list[str]:
    params = settings(**changes)
    model = kind(V, params.block_size, generator(1, "weights")).compute_in(params.precision)
    points = [asdict(point) for point in train(model, (TRAIN, TEST), params, generator(1, "batches"), processes=joined)]
    return [repr(points), *(weight.detach().numpy().tobytes().hex() for weight in model.parameters())]


def digest(
    name: str,
    joined: processes.Processes | None = None,
    *,
    precision: str = "exact",
    length: float = SHORT,
    state: State | None = None,
    save: Callable[[State], None] | None = None,
) -> str:
    """SHA-256 of the loss curve, the weights in float64, a text and its probabilities."""
    model_name, of_model, changes = EXACT[name]
    iterations = max(2, round(changes["max_iters"] * length))
    interval = min(changes["max_iters"], iterations // 2)
    warmup = min(RULES["warmup_iters"], max(2, iterations // 2))
    steps = {
        "max_iters": iterations,
        "warmup_iters": warmup,
        "eval_interval": interval,
        "eval_iters": round(4 * length),
    }
    params = settings(**FOUR | changes | steps | {"precision": precision})
    weights = generator(1, "weights")
    kind = LSTM if model_name == "lstm" else trainable_class(model_name)
    model = kind.initial(V, params.block_size, weights, params.precision, **of_model)
    found = hashlib.sha256()
    batches = generator(1, "batches")
    for point in train(model, (TRAIN, TEST), params, batches, processes=joined, state=state, save=save):
        found.update(repr(point).encode())
    for weight in model.parameters():
        found.update(weight.detach().numpy().tobytes())
    text = model.generate(np.zeros((2, 1), dtype=np.int64), 50, 0.8, generator(1, "text"))
    found.update(text.tobytes() + model.next_char_probabilities(text[:, -5:]).tobytes())
    return found.hexdigest()


# The whole grid

CAPABILITIES = ["default", "avx2", "avx512"]
"""Instruction sets of PyTorch's own kernels, each with those before it."""


def capabilities() -> list[str]:
    """Those that this CPU has."""
    return CAPABILITIES[: CAPABILITIES.index(torch.backends.cpu.get_cpu_capability().lower()) + 1]


def machine(capability: str, mkl: str, threads: int) -> dict[str, str]:
    """The environment variables that make of this machine another one."""
    settings = {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    return settings | ({"MKL_CBWR": mkl} if mkl else {})


def rows() -> Iterator[list[str]]:
    """Kinds of machine, in words, and the digest that all models come to there.

    Each pair of instruction set, threads and processes is among them; MKL takes turns.
    """
    for number, (capability, threads) in enumerate(product(capabilities(), [1, 2, 4])):
        mkl, count = ["", "COMPATIBLE"][number % 2], [1, 2, 4][(number + number // 3) % 3]
        with tempfile.TemporaryDirectory() as folder:
            program = ["torchrun", f"--nproc-per-node={count}"] if count > 1 else [sys.executable]
            command = [*program, "-m", "tests.every_process", folder, str(LONG)]
            environment = os.environ | machine(capability, mkl, threads)
            subprocess.run(command, env=environment, check=True, capture_output=True)
            found = {Path(folder, str(rank)).read_text() for rank in range(count)}
        [result] = found
        exact = json.dumps([[digest] for kind in ("exact", "plain") for digest in json.loads(result)[kind].values()])
        yield [capability, mkl or "as is", str(threads), str(count), hashlib.sha256(exact.encode()).hexdigest()[:16]]


def write_grid(path: Path) -> None:
    """Write the table of `rows` to `path`, and fail if they differ."""
    head = ["instruction set", "MKL_CBWR", "threads", "processes", "digest"]
    lines, digests = [head, ["---"] * len(head)], set()
    for row in rows():
        sys.stdout.write(" ".join(row) + "\n")
        sys.stdout.flush()
        lines.append(row)
        digests.add(row[-1])
    models = "\n".join(f"- {name}: {settings} {changes}" for name, (_, settings, changes) in EXACT.items())
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    path.write_text(
        "# Every machine that one machine can be\n\n"
        "Written by `make exactness`: a selection in which each pair of instruction set, threads and processes occurs. "
        "A digest is of the loss curves, all weights, texts and probabilities of these models, and of those of plain "
        f"PyTorch in `tests/plain.py`. What differs in their training; `max_iters` is {LONG} times as large here:\n\n"
        f"{models}\n\n{len(digests)} digest{'s' * (len(digests) != 1)} in {len(lines) - 2} kinds of machine:\n\n"
        f"{table}\n"
    )
    if len(digests) != 1:
        sys.exit(f"{len(digests)} results: expected one. See {path}.")


if __name__ == "__main__":
    if sys.argv[1] == "--grid":
        write_grid(Path(sys.argv[2]))
    else:
        place = Path(sys.argv[1])
        with processes.joined(torch.device("cpu"), dict) as joined:
            found = results(joined, place, *map(float, sys.argv[2:])) | ({} if joined is None else order(joined))
        (place / str(launcher.rank())).write_text(json.dumps(found))
