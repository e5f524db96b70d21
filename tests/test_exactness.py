"""The same bytes under every instruction set, number of threads, place, locale, time zone and hash seed."""

import os
import subprocess
import sys
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainings import set_train

CAPABILITIES = ["default", "avx2", "avx512"]
HERE = CAPABILITIES.index(torch.backends.cpu.get_cpu_capability().lower())
NOTEBOOK: dict[str, Any] = {}
LARGE = {"batch_size": 64, "block_size": 32, "learning_rate": 0.01, "max_iters": 2000}
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


EVERY = list(product(CAPABILITIES[: HERE + 1], ["1", "4"]))
SOME = list(zip(CAPABILITIES[: HERE + 1], ["4", "2", "1"], strict=False))
PLACES = cycle([("C", "UTC"), ("C.UTF-8", "Asia/Kathmandu"), ("POSIX", "America/St_Johns")])


@pytest.mark.parametrize(
    ("settings", "machines"), [(NOTEBOOK, EVERY), (LARGE, SOME)], ids=["the notebook's", "64 x 32, 1e-2, 2000"]
)
def test_machine_decides_nothing(
    project: Path, tmp_path: Path, settings: dict[str, Any], machines: list[tuple[str, str]]
) -> None:
    set_train(project, **settings)
    here = results(project, "out")
    assert len(here) == 12
    there = tmp_path / "another folder, é"
    project.rename(there)
    for (capability, threads), (locale, zone) in zip(machines, PLACES, strict=False):
        machine = {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": threads}
        found = results(there, f"{capability}-{threads}", PYTHONHASHSEED="random", LC_ALL=locale, TZ=zone, **machine)
        assert {name for name in here if here[name] != found.get(name)} == set(), machine


def test_float32_depends_on_the_instructions(project: Path) -> None:
    """The guard above can fail: what it rules out does happen in float32."""
    if HERE == 0:
        pytest.skip("needs a CPU with AVX2, to have two instruction sets to compare")
    set_train(project, precision="float32", **LARGE)
    plain = results(project, "plain", ATEN_CPU_CAPABILITY="default")
    wide = results(project, "wide")
    assert plain["train/model.safetensors"] != wide["train/model.safetensors"]
