"""The same bytes under every instruction set, number of threads, place, locale, time zone and hash seed.

A selection; `make exactness` runs all models on every kind of machine that this one can be.
"""

import json
import os
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.code_deps import PROJECT
from tests.every_process import EXACT, capabilities, machine
from tests.trainings import set_train

NOTEBOOK: dict[str, Any] = {}
LARGE = {"batch_size": 64, "block_size": 32, "learning_rate": 0.01, "max_iters": 2000}
GPT = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_window": 3, "dropout": 0.1}
FEW = {
    "batch_size": 8,
    "block_size": 32,
    "learning_rate": 0.01,
    "max_iters": 30,
    "optimizer": "muon",
    "eval_interval": 15,
    "eval_iters": 2,
}
STAGES = {
    "prepare": ("data/download", "{out}/prepare"),
    "train": ("{out}/prepare", "{out}/train"),
    "evaluate": ("{out}/prepare", "{out}/train", "{out}/evaluate"),
    "sample": ("{out}/prepare", "{out}/train", "{out}/sample"),
}
SCRIPT = """
import importlib, sys
for line in sys.argv[1:]:
    stage, *arguments = line.split(",")
    importlib.import_module(f"stages.{stage}").main(arguments, standalone_mode=False)
"""


def results(project: Path, out: str, **environment: str) -> dict[str, bytes]:
    """Every file that the stages from prepare to sample write, all run in one process."""
    lines = [",".join([stage, *(folder.format(out=out) for folder in folders)]) for stage, folders in STAGES.items()]
    settings = os.environ | {"CHARLM_TRACKING": "off", "OMP_WAIT_POLICY": "passive"} | environment
    subprocess.run([sys.executable, "-c", SCRIPT, *lines], cwd=project, env=settings, check=True, capture_output=True)
    return {str(path.relative_to(project / out)): path.read_bytes() for path in (project / out).rglob("*.*")}


MACHINES = [machine(*kind) for kind in zip(capabilities(), ["COMPATIBLE", "", "COMPATIBLE"], [4, 1, 2], strict=False)]
"""Each instruction set, with both kinds of MKL and other numbers of threads."""
PLACES = cycle([("C", "UTC"), ("C.UTF-8", "Asia/Kathmandu"), ("POSIX", "America/St_Johns")])


@pytest.mark.parametrize(
    ("gpt", "settings"),
    [(None, NOTEBOOK), (GPT, FEW)],
    ids=["the notebook's", "GPT"],
)
def test_machine_decides_nothing(
    project: Path, tmp_path: Path, gpt: dict[str, Any] | None, settings: dict[str, Any]
) -> None:
    set_train(project, **settings)
    if gpt is not None:
        params = YAML().load((project / "params.yaml").read_text())
        params["model"] = {"name": "gpt", "gpt": gpt}
        params["sample"]["max_new_tokens"] = 100
        YAML().dump(params, project / "params.yaml")
        book = project / "data/download/book.txt"
        book.write_text(book.read_text()[:8000])  # which the GPT reads again and again
    here = results(project, "out")
    assert len(here) == 12
    there = tmp_path / "another folder, é"
    project.rename(there)
    for number, (other, (locale, zone)) in enumerate(zip(MACHINES, PLACES, strict=False)):
        found = results(there, f"out-{number}", PYTHONHASHSEED="random", LC_ALL=locale, TZ=zone, **other)
        assert {name for name in here if here[name] != found.get(name)} == set(), other


def test_every_bit_of_every_model_is_the_same_on_every_machine(tmp_path: Path) -> None:
    """In float64, and at six times the rate: what a checkpoint rounds off too. Nor does it matter where one is resumed.

    The guard can fail: without exact arithmetic the digest differs.
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
    assert len(MACHINES) == 1 or found[0]["float64"] != found[1]["float64"]


def test_float32_depends_on_the_instructions(project: Path) -> None:
    """The guard above can fail: what it rules out does happen in float32."""
    if len(MACHINES) == 1:
        pytest.skip("needs a CPU with AVX2, to have two instruction sets to compare")
    set_train(project, precision="float32", **LARGE)
    plain = results(project, "plain", ATEN_CPU_CAPABILITY="default")
    wide = results(project, "wide")
    assert plain["train/model.safetensors"] != wide["train/model.safetensors"]
