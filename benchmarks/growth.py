"""Seconds and peak memory of each stage by the size of the text."""

import json
import shlex
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks import peak, texts
from benchmarks.pipelines import copy_project, environment, run

KINDS: tuple[texts.Kind, ...] = ("ASCII", "multilingual")


@dataclass(frozen=True)
class Growth:
    """What a stage took for a text: `seconds` and `peak` resident bytes. `problem` is not empty if it failed."""

    text: str
    megabytes: float
    stage: str
    seconds: float
    peak: int
    problem: str = ""


def measure(root: Path, kind: texts.Kind, megabytes: float, repeats: int) -> list[Growth]:
    """Run every stage on books of `megabytes` in all, from nothing, `repeats` times: a point for each stage."""
    with tempfile.TemporaryDirectory(prefix="charlm-bench.") as temporary:
        folder = copy_project(root, Path(temporary) / "project", "books/*.txt")
        texts.write_books(folder / "books", root, kind, int(megabytes * texts.MEGABYTE))
        rounds = [list(_run_stages(folder, kind, megabytes)) for _ in range(repeats)]
    return [_combine(of_stage) for of_stage in zip(*rounds, strict=False)]


def _combine(points: Sequence[Growth]) -> Growth:
    """The median of the seconds, the largest peak, and the first problem if there is one."""
    first = points[0]
    seconds = statistics.median(point.seconds for point in points)
    problem = next((point.problem for point in points if point.problem), "")
    return Growth(first.text, first.megabytes, first.stage, seconds, max(point.peak for point in points), problem)


def _run_stages(folder: Path, kind: texts.Kind, megabytes: float) -> Iterator[Growth]:
    """Run the stages in order, up to the first that fails."""
    run(folder, "git", "clean", "-dfxq", "--exclude=books")
    stages = YAML(typ="safe").load(folder / "dvc.yaml")["stages"]
    for stage, settings in stages.items():
        command = peak.watching(*shlex.split(settings["cmd"]))
        done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=True)
        code, seconds, memory = json.loads(done.stdout.splitlines()[-1])
        problem = f"failed with exit code {code}: {done.stderr.strip()[-300:]}" if code else ""
        yield Growth(kind, megabytes, stage, seconds, memory, problem)
        if problem:
            return
