"""The registered model: versions from runs, the alias `champion` on the best of them, and the files of any model."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from charlm.errors import CharlmError
from charlm.tracking.logged_model import NAME, models_of
from charlm.tracking.runs import find_run
from charlm.tracking.store import CHECKPOINT_TAG, RECORD_LATER, Store, reason, shown, telling

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
MODEL_VERSIONS = "mlflow.modelVersions"
LOSS = "loss/test"


class NotPromotedError(CharlmError):
    """A run cannot become the champion."""


class ModelUriError(CharlmError):
    """An MLflow address leads to no model of charlm."""

    def __init__(self, uri: str, store: str, problem: str) -> None:
        super().__init__(
            f"No model at {uri} in {shown(store)}: {problem}\n"
            f"Expected runs:/<run id>, models:/{NAME}@{CHAMPION}, models:/{NAME}/<version> or models:/<model id>; "
            "`charlm ui` shows them."
        )


def promote(store: Store, reference: str | None, *, force: bool = False) -> str:
    """Register the model of a run and make it the champion if it is better; tell what came of it.

    `reference` is what `find_run` takes; without one it is the run with the lowest test loss on the champion's text.
    A run is better when its loss on the same test part is lower; `force` does not ask.

    Raises NoSuchRunError, or NotPromotedError when there is no champion to be made of the run.
    """
    with telling(store.uri), _looking_up_in(store):
        champion = _champion(store.client)
        run = find_run(store, reference) if reference else _best(store, champion)
        version = _registered(store.client, run)
        told = f"Run {run.info.run_name} ({run.info.run_id[:12]}), test loss {run.data.metrics[LOSS]:.4f}, is version "
        told += f"{version.version} of the model {NAME}"
        if champion and champion.run_id == version.run_id:
            return f"{told} and the {CHAMPION} already."
        if champion and not force:
            _require_better(store.client, run, champion)
        store.client.set_registered_model_alias(NAME, CHAMPION, version.version)
    return f"{told} and now the {CHAMPION}: models:/{NAME}@{CHAMPION}"


@contextmanager
def _looking_up_in(store: Store) -> Iterator[None]:
    """Let MLflow look up addresses models:/… in `store`: it does so in one place, whatever client it is given."""
    import mlflow

    name = "MLFLOW_TRACKING_URI"
    before = os.environ.get(name)
    mlflow.set_tracking_uri(store.uri)  # which sets the variable as well
    try:
        yield
    finally:
        del os.environ[name]
        os.environ |= {} if before is None else {name: before}


def _champion(client: "MlflowClient") -> "ModelVersion | None":
    """The version that the alias stands on, if there is one."""
    # A server with users refuses to look up the alias of a model that is not there.
    aliases = [model.aliases for model in client.search_registered_models(f"name = '{NAME}'")]
    if not aliases or CHAMPION not in aliases[0]:
        return None
    return client.get_model_version(NAME, str(aliases[0][CHAMPION]))


def _best(store: Store, champion: "ModelVersion | None") -> "Run":
    """The finished run with the lowest test loss, the first of several, on the champion's text or else the last one."""
    finished = store.runs("attributes.status = 'FINISHED'")
    runs = [run for run in finished if CHECKPOINT_TAG in run.data.tags and LOSS in run.data.metrics]
    if not runs:
        raise NotPromotedError(f"No finished run in {shown(store.uri)} to promote.\n`dvc repro` makes one.")
    text = _test_text(store.client.get_run(str(champion.run_id)) if champion else runs[0])
    same = [run for run in runs if _test_text(run) == text] or runs
    return min(same, key=lambda run: (run.data.metrics[LOSS], run.info.start_time))


def _test_text(run: "Run") -> str | None:
    """The digest of the test part that the run was measured on."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    tests = [entry.dataset.digest for entry in inputs if any(tag.value == "test" for tag in entry.tags)]
    return tests[0] if tests else None


def _registered(client: "MlflowClient", run: "Run") -> "ModelVersion":
    """The version of the registered model that is the model of the run, made if it is not there."""
    models = [model for model in models_of(client, run) if model.status == "READY"]
    if run.info.status != "FINISHED" or LOSS not in run.data.metrics or not models:
        raise NotPromotedError(
            f"Run {run.info.run_name} ({run.info.status}) has no model and test loss: its record is not complete.\n"
            f"`{RECORD_LATER}` completes it where its result stands below data/, `charlm sync` where DVC has it cached."
        )
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME, description="Character models, promoted by their loss on the test part.")
    versions = client.search_model_versions(f"name = '{NAME}' and run_id = '{run.info.run_id}'")
    if versions:
        return versions[0]
    model = models[0].model_id
    version = client.create_model_version(NAME, f"models:/{model}", run.info.run_id, model_id=model)
    # What the page of the model says that it is registered by.
    client.set_logged_model_tags(model, {MODEL_VERSIONS: json.dumps([{"name": NAME, "version": version.version}])})
    return version


def _require_better(client: "MlflowClient", run: "Run", champion: "ModelVersion") -> None:
    """Raise NotPromotedError when the run is not measured better than the champion, on the same text."""
    if problem := _shortfall(run, client.get_run(str(champion.run_id)), champion.version):
        raise NotPromotedError(f"{problem}\n--force moves the alias all the same.")


def _shortfall(run: "Run", best: "Run", version: str) -> str:
    """Why the run is not known to be better than `best`, the champion of this version; nothing when it is."""
    if LOSS not in best.data.metrics:
        return f"The {CHAMPION}, version {version} of {NAME}, has no test loss to compare with."
    mine, theirs = run.data.metrics[LOSS], best.data.metrics[LOSS]
    stays = f"Version {version} of {NAME} (run {best.info.run_name}, test loss {theirs:.4f}) stays the {CHAMPION}"
    if _test_text(run) != _test_text(best):
        return f"{stays}: run {run.info.run_name} was measured on another text, their losses do not compare."
    return f"{stays}: run {run.info.run_name} has {mine:.4f}, which is not better." if mine >= theirs else ""


def download_model(store: Store, uri: str, folder: Path) -> Path:
    """Fetch what stands at `uri` into `folder` and return where; ModelUriError when there is nothing."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    address = urlsplit(uri)
    run_id, _, path = address.path.strip("/").partition("/")
    try:
        if address.scheme == "runs":
            held = "checkpoint" if path in ("", NAME) else path  # the same files as the run's model has
            return Path(store.client.download_artifacts(run_id, held, str(folder)))
        with _looking_up_in(store):
            return Path(download_artifacts(uri, dst_path=str(folder)))
    except (MlflowException, OSError) as err:
        raise ModelUriError(uri, store.uri, reason(err)) from err
