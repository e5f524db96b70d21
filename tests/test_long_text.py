"""A text may be longer than memory: what the stages take of it, measured."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from benchmarks import texts

PROJECT = Path(__file__).resolve().parent.parent
STAGES = {
    "download": ("data/download",),
    "prepare": ("data/download", "data/prepare"),
    "train": ("data/prepare", "data/train"),
    "evaluate": ("data/prepare", "data/train", "data/evaluate"),
}
# A process's own largest size; what getrusage tells may be that of the process which started it.
PROGRAM = r"""
import atexit, pathlib, re, runpy, sys
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]))
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""


def peaks(folder: Path, books: int, text: bytes, run: Callable[..., Any]) -> dict[str, float]:
    """Largest resident size in MB of each stage, pages of mapped files included, for a shelf of `books` of one text."""
    (folder / "books").mkdir(parents=True)
    for number in range(books):
        (folder / f"books/{number:03}.txt").write_bytes(text)
    params = YAML().load(PROJECT / "params.yaml")
    params["data"] |= {"source": "books/*.txt", "sha256": None}
    YAML().dump(params, folder / "params.yaml")
    settings = {"PYTHONPATH": str(PROJECT), "DVC_ROOT": str(folder), "CHARLM_TRACKING": "off"}
    return {
        stage: int(run(folder, sys.executable, "-c", PROGRAM, f"stages.{stage}", *places, **settings).stdout) / 1024
        for stage, places in STAGES.items()
    }


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell a process's largest size")
def test_no_stage_takes_more_memory_for_200_megabytes_than_for_one(tmp_path: Path, run: Callable[..., Any]) -> None:
    text = texts.text(PROJECT, "multilingual", texts.MEGABYTE).encode()
    short, long = (peaks(tmp_path / str(size), size, text, run) for size in (1, 200))
    grown = {stage: long[stage] - short[stage] for stage in STAGES}
    assert max(grown.values()) < 40, grown
    assert long["prepare"] < 150
