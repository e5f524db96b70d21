"""How long an iteration of the GPT recipe takes in one process and in two, which share its windows; prints a table.

The train stage runs twice, and the difference counts: start-up and the last measurement, of a short text, do not.
"""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import click
from ruamel.yaml import YAML

from benchmarks import texts
from benchmarks.pipelines import copy_project, environment, run
from charlm.config import project_root

PRECISIONS, PROCESSES, SHORT, LONG, REPEATS = ("exact", "float64", "float32"), (1, 2), 10, 70, 3


@click.command(help=__doc__)
def main() -> None:
    root = project_root()
    with tempfile.TemporaryDirectory(prefix="charlm-bench.") as temporary:
        folder = copy_project(root, Path(temporary) / "project", "text.txt")
        texts.write(folder / "text.txt", root, "ASCII", 10_000)
        run(folder, "dvc", "repro", "prepare")
        click.echo("| precision | 1 process | 2 processes | ratio |\n|---|---|---|---|")
        for precision in PRECISIONS:
            rounds = [[_iteration(root, folder, precision, count) for count in PROCESSES] for _ in range(REPEATS)]
            one, two = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
            click.echo(f"| {precision} | {1000 * one:.0f} ms | {1000 * two:.0f} ms | {two / one:.2f} × |")


def _iteration(root: Path, folder: Path, precision: str, processes: int) -> float:
    """Seconds that an iteration takes."""
    short, long = (_train(root, folder, precision, processes, iterations) for iterations in (SHORT, LONG))
    return (long - short) / (LONG - SHORT)


def _train(root: Path, folder: Path, precision: str, processes: int, iterations: int) -> float:
    """Seconds of the train stage for so many iterations."""
    params = YAML().load(root / "recipes/gpt.yaml")
    windows = params["train"]["batch_size"]
    params["train"] |= {"precision": precision, "max_iters": iterations, "warmup_iters": 0, "eval_iters": 1}
    params["train"] |= {"batch_size": windows // 2, "gradient_accumulation_steps": 2}
    YAML().dump(params, folder / "params.yaml")
    launcher = {} if processes == 1 else {"CHARLM_LAUNCHER": f"torchrun --nproc-per-node {processes}"}
    settings = environment(folder) | {"CHARLM_TRACKING": "off"} | launcher
    start = time.perf_counter()
    command = ("python", "-m", "stages.train", "data/prepare", "data/train")
    subprocess.run(command, cwd=folder, env=settings, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
