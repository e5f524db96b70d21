"""What several tests of a training do with a copy of the project."""

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from charlm.errors import CharlmError
from charlm.tracking.live import live_run


def set_train(project: Path, **values: Any) -> None:
    """Set keys of the train section of its params.yaml."""
    params = YAML().load((project / "params.yaml").read_text())
    params["train"] |= values
    YAML().dump(params, project / "params.yaml")


def only_run(project: Path) -> Any:
    """The one run in its MLflow store."""
    [run] = MlflowClient(f"sqlite:///{project / 'mlflow.db'}").search_runs(["1"])
    return run


HOOK = """
import itertools
import os

_mean_of_all = mean

def mean(*found, steps=itertools.count(1), **kind):
    if next(steps) == 20:
        code = os.environ.get("AT_STEP_20_IN_" + os.environ.get("RANK", "0"), "")
        exec(compile(code, "hook", "exec"))  # executing text, Python exits by SIGINT after any KeyboardInterrupt
    return _mean_of_all(*found, **kind)
"""


def add_hook(project: Path) -> None:
    """Let process N run the code in the environment variable AT_STEP_20_IN_N at that step."""
    with (project / "charlm/training/loop.py").open("a") as module:
        module.write(HOOK)


def refusal(root: Path, uri: str) -> str:
    """The message of a training run that may not log to the store `uri`, and so does not begin."""
    with pytest.raises(CharlmError) as error, live_run(root, {"train.seed": 1}, warn=print):
        pytest.fail("it trained")
    assert error.value.message.startswith(f"MLflow cannot use its store {uri}: ")
    assert "CHARLM_TRACKING=off" in error.value.message
    return error.value.message
