"""A text may be longer than memory: what the stages use does not grow with it."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from benchmarks import peak, texts
from tests.trainings import ARGUMENTS

PROJECT = Path(__file__).resolve().parent.parent
STAGES = ("download", "prepare", "train", "evaluate")


def peaks(folder: Path, files: Sequence[int], run: Callable[..., Any], stages: Sequence[str] = STAGES) -> Any:
    """The largest resident size of each stage in MB, mapped files included, for `files` of so many megabytes each."""
    (folder / "books").mkdir(parents=True)
    megabyte = texts.text(PROJECT, "multilingual", texts.MEGABYTE).encode()
    for number, megabytes in enumerate(files):
        with (folder / f"books/{number:03}.txt").open("wb") as file:
            file.writelines([megabyte] * megabytes)
    params = YAML().load(PROJECT / "params.yaml")
    params["data"] |= {"source": "books/*.txt", "sha256": None}
    YAML().dump(params, folder / "params.yaml")
    (folder / "dvc.yaml").touch()
    settings = {"PYTHONPATH": str(PROJECT), "CHARLM_TRACKING": "off"}
    found = {}
    for stage in stages:
        done = run(folder, *peak.watching(sys.executable, "-m", f"stages.{stage}", *ARGUMENTS[stage]), **settings)
        code, _, size = json.loads(done.stdout.splitlines()[-1])
        assert code == 0, done.stderr
        found[stage] = size / 2**20
    return found


@pytest.mark.long
def test_memory_does_not_grow_from_1_megabyte_to_70(tmp_path: Path, run: Callable[..., Any]) -> None:
    """In one file or in seventy; a single file used to be read as a whole."""
    short, long = (peaks(tmp_path / str(size), [size], run) for size in (1, 70))
    many = peaks(tmp_path / "many", [1] * 70, run, ["download"])
    grown = {stage: long[stage] - short[stage] for stage in STAGES} | {"many": many["download"] - short["download"]}
    assert max(grown.values()) < 40, grown
    assert max(long["download"], long["prepare"]) < 100  # the short text has a Kneser-Ney model, which is larger
