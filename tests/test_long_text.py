"""A text may be longer than memory: what the stages take of it, measured."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks import peak, texts

PROJECT = Path(__file__).resolve().parent.parent
STAGES = {
    "download": ("data/download",),
    "prepare": ("data/download", "data/prepare"),
    "train": ("data/prepare", "data/train"),
    "evaluate": ("data/prepare", "data/train", "data/evaluate"),
}


def peaks(folder: Path, books: int, text: bytes, run: Callable[..., Any]) -> dict[str, float]:
    """Largest resident size in MB of each stage, pages of mapped files included, for a shelf of `books` of one text."""
    (folder / "books").mkdir(parents=True)
    for number in range(books):
        (folder / f"books/{number:03}.txt").write_bytes(text)
    params = YAML().load(PROJECT / "params.yaml")
    params["data"] |= {"source": "books/*.txt", "sha256": None}
    YAML().dump(params, folder / "params.yaml")
    settings = {"PYTHONPATH": str(PROJECT), "DVC_ROOT": str(folder), "CHARLM_TRACKING": "off"}
    found = {}
    for stage, places in STAGES.items():
        watched = peak.watching(sys.executable, "-m", f"stages.{stage}", *places)
        told = run(folder, *watched, **settings)
        code, _, size = json.loads(told.stdout.splitlines()[-1])
        assert code == 0, told.stderr
        found[stage] = size / 2**20
    return found


def test_no_stage_takes_more_memory_for_200_megabytes_than_for_one(tmp_path: Path, run: Callable[..., Any]) -> None:
    text = texts.text(PROJECT, "multilingual", texts.MEGABYTE).encode()
    short, long = (peaks(tmp_path / str(size), size, text, run) for size in (1, 200))
    grown = {stage: long[stage] - short[stage] for stage in STAGES}
    assert max(grown.values()) < 40, grown
    assert long["prepare"] < 150
