"""What an iteration of each network costs: `exact` beside float32, on this CPU and as one without AVX-512.

It writes the table in docs/exact.md. The precisions take turns, and nanoGPT's recipe with them.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch

from benchmarks import nanogpt
from benchmarks.ladder import write_table
from charlm.config import load_params, project_root
from charlm.models import trainable_class
from charlm.models.predictor import Precision
from charlm.random import generator
from charlm.text.corpus import Split, load_splits
from charlm.text.vocabulary import Vocabulary
from charlm.training.loop import train

RECIPES = {"`recipes/gpt.yaml`": ("gpt", {}), "the same with AdamW alone": ("gpt", {"optimizer": "adamw"})} | {
    f"`recipes/{name}.yaml`": (name, {}) for name in ("gru", "mlp")
}
KINDS = {"as it is": {}, "without AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}}
TURNS, ITERATIONS = 5, 10
PRECISIONS: tuple[Precision, ...] = ("float32", "exact")
HEADER = "| milliseconds an iteration | CPU | float32 | exact | ratio |\n|---|---|---|---|---|\n"


def _steps(
    root: Path, recipe: str, changes: dict[str, str], precision: Precision, splits: tuple[Split, Split]
) -> Iterator[object]:
    """A training run of the recipe that stops after every ITERATIONS, and measures nothing."""
    params = load_params(root / f"recipes/{recipe}.yaml")
    endless = {"max_iters": 10**6, "eval_interval": ITERATIONS, "precision": precision}
    settings = params.train.model_copy(update=endless | changes)
    model = trainable_class(recipe).initial(
        splits[0].vocabulary_size,
        settings.block_size,
        generator(settings.seed, "weights"),
        precision,
        **params.model.settings.model_dump(),
    )
    model.estimated_loss = lambda *_: 0.0  # type: ignore[method-assign]
    return train(model, splits, settings, generator(settings.seed, "batches"))


def _milliseconds(runs: dict[str, Iterator[object]]) -> dict[str, float]:
    """The median time of an iteration of each of `runs`, which take turns; the first two turns warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS + 2):
        for name, steps in runs.items():
            start = time.perf_counter()
            next(steps)
            times[name].append((time.perf_counter() - start) / ITERATIONS * 1000)
    return {name: statistics.median(found[2:]) for name, found in times.items()}


def measure(root: Path) -> dict[str, dict[str, float]]:
    """Milliseconds by recipe and precision, and of nanoGPT's recipe."""
    prepare = root / "data/prepare"
    splits = load_splits(prepare, len(Vocabulary.load(prepare / "vocabulary.json")))
    found = {}
    for title, (recipe, changes) in RECIPES.items():
        torch.set_num_threads(os.cpu_count() or 1 if trainable_class(recipe).threaded else 1)
        runs: dict[str, Iterator[object]] = {
            precision: _steps(root, recipe, changes, precision, splits) for precision in PRECISIONS
        }
        if recipe == "gpt":
            runs["nanoGPT"] = iter(
                nanogpt.train(nanogpt.NanoGPT(splits[0].vocabulary_size), splits[0], 10**6, ITERATIONS)
            )
        found[title] = _milliseconds(runs)
    return found


def _cpu() -> str:
    """The name of this CPU, as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


@click.command(help=__doc__)
@click.option("--this", is_flag=True, help="Measure in this process and print the figures.")
def main(*, this: bool) -> None:
    root = project_root()
    if this:
        click.echo(json.dumps(measure(root)))
        return
    rows = []
    for kind, environment in KINDS.items():
        command = [sys.executable, "-m", "benchmarks.cost", "--this"]
        shown = subprocess.run(command, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True)
        cpu = f"{_cpu()}, {kind}"
        for title, found in json.loads(shown.stdout).items():
            plain, exact, nano = found["float32"], found["exact"], found.get("nanoGPT")
            rows.append(f"| {title} | {cpu} | {plain:.1f} | {exact:.1f} | {exact / plain:.2f} × |\n")
            if nano and title == next(iter(RECIPES)):
                rows.append(f"| nanoGPT's recipe | {cpu} | {nano:.1f} | | {plain / nano:.2f} × for ours |\n")
    write_table(root / "docs/exact.md", HEADER, rows)


if __name__ == "__main__":
    main()
