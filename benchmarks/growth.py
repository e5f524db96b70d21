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
    """What a stage took of a text: `seconds` and `peak` resident bytes, or the `problem` that it failed with."""

    text: str
    megabytes: float
    stage: str
    seconds: float
    peak: int
    problem: str = ""


def measured(root: Path, kind: texts.Kind, megabytes: float, repeats: int) -> list[Growth]:
    """Every stage on a shelf of so many megabytes; all of them in a row `repeats` times, each time from nothing."""
    with tempfile.TemporaryDirectory(prefix="charlm-bench.") as temporary:
        folder = copy_project(root, Path(temporary) / "project", "books/*.txt")
        texts.write_shelf(folder / "books", root, kind, int(megabytes * texts.MEGABYTE))
        rounds = [list(_stages(folder, kind, megabytes)) for _ in range(repeats)]
    return [_together(of_stage) for of_stage in zip(*rounds, strict=False)]


def _together(points: Sequence[Growth]) -> Growth:
    """The median of their seconds, the largest of their peaks, and a problem if one of them had it."""
    first = points[0]
    seconds = statistics.median(point.seconds for point in points)
    problem = next((point.problem for point in points if point.problem), "")
    return Growth(first.text, first.megabytes, first.stage, seconds, max(point.peak for point in points), problem)


def _stages(folder: Path, kind: texts.Kind, megabytes: float) -> Iterator[Growth]:
    """The stages one after another; those after one that failed are left out."""
    run(folder, "git", "clean", "-dfxq", "--exclude=books")
    commands = YAML(typ="safe").load(folder / "dvc.yaml")["stages"]
    for stage, settings in commands.items():
        point = _stage(folder, stage, shlex.split(settings["cmd"]), kind, megabytes)
        yield point
        if point.problem:
            return


def _stage(folder: Path, stage: str, command: Sequence[str], kind: texts.Kind, megabytes: float) -> Growth:
    watched = peak.watching(*command)
    done = subprocess.run(watched, cwd=folder, env=environment(folder), capture_output=True, text=True, check=True)
    code, seconds, memory = json.loads(done.stdout.splitlines()[-1])
    problem = f"failed with exit code {code}: {done.stderr.strip()[-300:]}" if code else ""
    return Growth(kind, megabytes, stage, seconds, memory, problem)
