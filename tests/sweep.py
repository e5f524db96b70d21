"""Many runs in one process: the stages one after the other, in the project that this runs in.

DVC starts a process for each stage and keeps its cache, which takes some ten seconds a run; here it is one or two.
"""

import itertools
import json
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from charlm.config import MODELS
from tests.trainings import ARGUMENTS

PARAMS = Path("params.yaml")


def ladder(changes: dict[str, dict[str, Any]]) -> None:
    """Run every recipe with `changes` of its sections, in an experiment called ladder."""
    os.environ["MLFLOW_EXPERIMENT_NAME"] = "ladder"
    for recipe in ("notebook", *MODELS):
        settings = YAML().load(Path(f"recipes/{recipe}.yaml"))
        for section, values in changes.items():
            settings[section] |= values
        run_all(recipe, settings)
    del os.environ["MLFLOW_EXPERIMENT_NAME"]


def sweep(grid: dict[str, list[float]]) -> None:
    """Run every point of `grid`, the values of keys of the train section, numbered as DVC numbers a queue's."""
    settings = YAML().load(PARAMS)
    for number, values in enumerate(itertools.product(*grid.values()), start=1):
        settings["train"] |= dict(zip(grid, values, strict=True))
        run_all(f"sweep-{number}", settings)


def run_all(name: str, settings: dict[str, Any]) -> None:
    """Run the stages with `settings`; those before train once."""
    YAML().dump(settings, PARAMS)
    os.environ["DVC_EXP_NAME"] = name
    prepared = Path("data/prepare").exists()
    if not prepared:
        Path("dvc.lock").write_text("schema: '2.0'\n")
        Path("data/download").mkdir(parents=True, exist_ok=True)
    for stage, arguments in ARGUMENTS.items():
        if not prepared or stage not in {"download", "prepare"}:
            import_module(f"stages.{stage}").main(arguments, standalone_mode=False)


if __name__ == "__main__":
    shipped = PARAMS.read_bytes()
    ladder(json.loads(sys.argv[2]))
    shutil.move("data", "ladder")
    PARAMS.write_bytes(shipped)
    sweep(json.loads(sys.argv[1]))
