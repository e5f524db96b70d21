"""charlm's values as MLflow's entities: parameters, metrics with their names, small artifacts."""

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from charlm.training.history import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param


def as_params(params: Mapping[str, Any]) -> "list[Param]":
    r"""MLflow's parameters: readable strings as they are, everything else as JSON (`null`, `0.0003`, `"\n"`).

    Values longer than MLflow allows are cut.
    """
    from mlflow.entities import Param
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    texts = {
        key: value if isinstance(value, str) and value.isprintable() else json.dumps(value)
        for key, value in params.items()
    }
    return [Param(key, text[:MAX_PARAM_VAL_LENGTH]) for key, text in texts.items()]


def as_metrics(values: Mapping[str, float], step: int, when: int | None = None) -> "list[Metric]":
    """MLflow's metrics of `step`, now or at `when` in milliseconds; to six decimals, as in history.csv."""
    from mlflow.entities import Metric

    when = int(time.time() * 1000) if when is None else when
    return [Metric(key, round(value, 6), when, step) for key, value in values.items()]


def losses(point: Point) -> dict[str, float]:
    """The losses of `point` by metric name; the UI's charts group them by the part before the slash.

    What follows from a loss, bits per character and perplexity, is logged only for the last point.
    """
    values = {"loss/train": point.train_loss, "loss/test": point.test_loss, "loss/batch": point.batch_loss}
    return {key: value for key, value in values.items() if value is not None}


def log_bytes(client: "MlflowClient", run_id: str, name: str, content: bytes) -> None:
    """Log `content` as the artifact `name`."""
    with tempfile.TemporaryDirectory() as temporary:
        path, folder = Path(temporary) / PurePosixPath(name).name, str(PurePosixPath(name).parent)
        path.write_bytes(content)
        client.log_artifact(run_id, str(path), None if folder == "." else folder)
