"""The same bytes under every instruction set, number of threads, place, locale, time zone and hash seed.

A selection; `make exactness` runs all models on every kind of machine that this one can be.
"""

import json
import os
import shutil
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.code_deps import PROJECT
from tests.every_process import EXACT, capabilities, machine
from tests.trainings import ARGUMENTS, in_one_process

PROJECTS: dict[str, dict[str, Any]] = {
    "the notebook's": {},
    "GPT": {
        "model": {"name": "gpt", "gpt": {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_window": 3, "dropout": 0.1}},
        "train": {
            "batch_size": 8,
            "block_size": 32,
            "learning_rate": 0.01,
            "max_iters": 30,
            "optimizer": "muon",
            "eval_interval": 15,
            "eval_iters": 2,
        },
        "sample": {"max_new_tokens": 100},
    },
    "float32": {
        "train": {"precision": "float32", "batch_size": 64, "block_size": 32, "learning_rate": 0.01, "max_iters": 2000}
    },
}
"""What differs from the shipped params.yaml, by the name of a folder."""
STAGES = ("prepare", "train", "evaluate", "sample")


def results(projects: Path, out: str, **environment: str) -> dict[str, bytes]:
    """Every file that the stages from prepare to sample write in each of PROJECTS, all run in one process."""
    outputs = {f"data/{stage}": f"{out}/{stage}" for stage in STAGES}
    stages = {stage: [outputs.get(folder, folder) for folder in ARGUMENTS[stage]] for stage in STAGES}
    command = in_one_process(stages, *(projects / name for name in PROJECTS))
    settings = os.environ | {"CHARLM_TRACKING": "off", "OMP_WAIT_POLICY": "passive"} | environment
    subprocess.run(command, cwd=projects / "GPT", env=settings, check=True, capture_output=True)
    return {
        f"{name}/{path.relative_to(projects / name / out)}": path.read_bytes()
        for name in PROJECTS
        for path in (projects / name / out).rglob("*.*")
    }


MACHINES = [machine(*kind) for kind in zip(capabilities(), ["COMPATIBLE", "", "COMPATIBLE"], [4, 1, 2], strict=False)]
"""Each instruction set, with both kinds of MKL and other numbers of threads."""
PLACES = cycle([("C", "UTC"), ("C.UTF-8", "Asia/Kathmandu"), ("POSIX", "America/St_Johns")])


@pytest.mark.long
def test_machine_decides_nothing_but_in_float32(project: Path, tmp_path: Path) -> None:
    """In float32 it does, so the guard can fail."""
    projects = tmp_path / "projects"
    for name, changes in PROJECTS.items():
        shutil.copytree(project, projects / name)
        params = YAML().load((project / "params.yaml").read_text())
        for section, values in changes.items():
            params[section] |= values
        YAML().dump(params, projects / name / "params.yaml")
    book = projects / "GPT/data/download/book.txt"
    book.write_text(book.read_text()[:8000])  # the GPT reads it again and again
    here = results(projects, "out")
    assert len(here) == 12 * len(PROJECTS)
    there = projects.rename(tmp_path / "another folder, é")
    for number, (other, (locale, zone)) in enumerate(zip(MACHINES, PLACES, strict=False)):
        found = results(there, f"out-{number}", PYTHONHASHSEED="random", LC_ALL=locale, TZ=zone, **other)
        different = {name for name in here if here[name] != found.get(name)}
        assert {name for name in different if not name.startswith("float32/")} == set(), other
        if number == 0 and len(MACHINES) > 1:  # the first has narrower instructions than those used here
            assert "float32/train/model.safetensors" in different


@pytest.mark.long
def test_every_bit_of_every_model_is_the_same_on_every_machine(tmp_path: Path) -> None:
    """Of charlm's and of plain PyTorch's, and at six times the rate. Nor does it matter where one is resumed.

    The guard can fail: without exact arithmetic the digests differ.
    """
    found = []
    for number, other in enumerate(MACHINES):
        folder = tmp_path / str(number)
        folder.mkdir()
        if number == 1:
            (tmp_path / "0/after").rename(folder / "before")
        command = [sys.executable, "-m", "tests.every_process", str(folder)]
        subprocess.run(command, cwd=PROJECT, env=os.environ | other, check=True)
        found.append(json.loads((folder / "0").read_text()))
    exact = found[0]["exact"]
    assert exact.keys() == EXACT.keys()
    assert [other["exact"] for other in found] == [exact] * len(MACHINES)
    assert [other["resumed"] for other in found[1:2]] == [exact] * len(MACHINES[1:2])
    assert [other["plain"] for other in found] == [found[0]["plain"]] * len(MACHINES)
    assert len(MACHINES) == 1 or found[0]["float64"] != found[1]["float64"]
    assert len(MACHINES) == 1 or found[0]["float32"] != found[1]["float32"]
