"""Seconds and peak memory of each stage by the size of the text."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import peak, texts
from benchmarks.pipelines import copy_project, environment
from charlm.bench import Growth

STAGES = {
    "download": ("data/download",),
    "prepare": ("data/download", "data/prepare"),
    "train": ("data/prepare", "data/train"),
    "evaluate": ("data/prepare", "data/train", "data/evaluate"),
    "sample": ("data/prepare", "data/train", "data/sample"),
    "record": ("data", "data/record"),
}
KINDS: tuple[texts.Kind, ...] = ("ASCII", "multilingual")


def measured(root: Path, megabytes: Sequence[float]) -> list[Growth]:
    """Every stage, on each kind of text and for each size."""
    return [point for kind in KINDS for size in megabytes for point in _stages(root, kind, size)]


def _stages(root: Path, kind: texts.Kind, megabytes: float) -> Iterator[Growth]:
    """The stages one after another on one text; those after one that failed are left out."""
    with tempfile.TemporaryDirectory(prefix="charlm-bench.") as temporary:
        folder = copy_project(root, Path(temporary) / "project")
        texts.write(folder / "book.txt", root, kind, int(megabytes * texts.MEGABYTE))
        failed = False
        for stage, folders in STAGES.items():
            if not failed:
                point = _stage(folder, stage, folders, kind, megabytes)
                failed = bool(point.problem)
                yield point
        shutil.rmtree(folder)


def _stage(folder: Path, stage: str, folders: Sequence[str], kind: texts.Kind, megabytes: float) -> Growth:
    command = (sys.executable, "-I", "-S", peak.__file__, sys.executable, "-m", f"stages.{stage}", *folders)
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=True)
    code, seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return Growth(kind, megabytes, stage, seconds, memory, f"failed with exit code {code}" if code else "")
