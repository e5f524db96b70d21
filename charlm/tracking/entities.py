"""charlm's values as MLflow's entities: parameters, metrics with their names, small artifacts."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from charlm.config import LONGEST_NAME, PARAMS_FILE, is_pattern, short_source
from charlm.training.history import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param


TEXT_TAG = "charlm.text"
"""The `text_name` of a run, a column of the UI's list."""


def as_params(params: Mapping[str, Any]) -> "list[Param]":
    r"""MLflow's parameters: readable strings as they are, everything else as JSON (`null`, `0.0003`, `"\n"`).

    Of a value longer than MLflow allows there is the beginning, the size and the digest; params.yaml has all of it.
    """
    from mlflow.entities import Param
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    def text(value: Any) -> str:
        whole = value if isinstance(value, str) and value.isprintable() else json.dumps(value)
        if len(whole) <= MAX_PARAM_VAL_LENGTH:
            return whole
        size = f"{len(value)} texts" if isinstance(value, list) else f"{len(value)} characters"
        rest = f"… ({size}, SHA-256 {digest_of(whole)}, complete in {PARAMS_FILE})"
        return whole[: MAX_PARAM_VAL_LENGTH - len(rest)] + rest

    return [Param(key, text(value)) for key, value in params.items()]


def text_name(sources: Sequence[str]) -> str:
    """`data.source` as a short name: of one text that of its file, without its ending."""
    name = short_source(sources)
    if len(sources) > 1 or is_pattern(name):
        return name
    address = urlsplit(sources[0])
    return PurePosixPath(address.path if address.scheme in ("http", "https") else sources[0]).stem[:LONGEST_NAME]


def digest_of(text: str) -> str:
    """The SHA-256 digest of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


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
    _log(client, run_id, name, lambda path: path.write_bytes(content))


def log_file(client: "MlflowClient", run_id: str, name: str, source: Path) -> None:
    """Log the content of `source` as the artifact `name`.

    MLflow copies a link as a link, and permissions too: DVC may link to its cache, whose files are read-only.
    """
    _log(client, run_id, name, lambda path: shutil.copyfile(source, path))


def _log(client: "MlflowClient", run_id: str, name: str, write: Callable[[Path], object]) -> None:
    """Log as the artifact `name` what `write` writes to a path."""
    with tempfile.TemporaryDirectory() as temporary:
        path, folder = Path(temporary) / PurePosixPath(name).name, str(PurePosixPath(name).parent)
        write(path)
        client.log_artifact(run_id, str(path), None if folder == "." else folder)
