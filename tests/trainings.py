"""What several tests of a training do with a copy of the project."""

from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from ruamel.yaml import YAML


def set_train(project: Path, **values: Any) -> None:
    """Set keys of the train section of its params.yaml."""
    params = YAML().load((project / "params.yaml").read_text())
    params["train"] |= values
    YAML().dump(params, project / "params.yaml")


def only_run(project: Path) -> Any:
    """The one run in its MLflow store."""
    [run] = MlflowClient(f"sqlite:///{project / 'mlflow.db'}").search_runs(["1"])
    return run
