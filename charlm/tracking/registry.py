"""The registered model: versions from runs, the alias `champion` on the best one, and the files of any model."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from charlm.config import project_root
from charlm.errors import CharlmError
from charlm.tracking.logged_model import NAME, models_of
from charlm.tracking.runs import find_run
from charlm.tracking.store import CHECKPOINT_TAG, RECORD_LATER, Store, reason, set_environ, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
MODEL_VERSIONS = "mlflow.modelVersions"
LOSS = "loss/test"


def promote(store: Store, reference: str | None, *, force: bool = False) -> str:
    """Register the model of a run and make it the champion if it is better; return a sentence about it.

    `reference` is what `find_run` takes; the default is the run with the lowest test loss on the champion's text. A run
    is better if its loss on the same test split is lower; `force` skips that check.

    Raises CharlmError if there is no such run or it does not become the champion.
    """
    # MLflow looks up models:/... in the store that this variable names, whatever client is used.
    with store_errors(store.uri), set_environ("MLFLOW_TRACKING_URI", store.uri):
        champion = _champion(store.client)
        run = find_run(store, reference) if reference else _best(store, champion)
        version = _version(store.client, run)
        found = f"Run {run.info.run_name} ({run.info.run_id[:12]}), test loss {run.data.metrics[LOSS]:.4f}, is version "
        found += f"{version.version} of the model {NAME}"
        if champion and champion.run_id == version.run_id:
            return f"{found} and the {CHAMPION} already."
        if champion and not force:
            _require_better(run, store.client.get_run(str(champion.run_id)), champion.version)
        store.client.set_registered_model_alias(NAME, CHAMPION, version.version)
    return f"{found} and now the {CHAMPION}: models:/{NAME}@{CHAMPION}"


def _champion(client: "MlflowClient") -> "ModelVersion | None":
    """The version with the alias, if there is one."""
    # A server with users refuses to look up the alias of a model that does not exist.
    aliases = [model.aliases for model in client.search_registered_models(f"name = '{NAME}'")]
    if not aliases or CHAMPION not in aliases[0]:
        return None
    return client.get_model_version(NAME, str(aliases[0][CHAMPION]))


def _best(store: Store, champion: "ModelVersion | None") -> "Run":
    """The finished run with the lowest test loss, the first of several, on the text of the champion or the last run."""
    finished = store.runs("attributes.status = 'FINISHED'")
    runs = [run for run in finished if CHECKPOINT_TAG in run.data.tags and LOSS in run.data.metrics]
    if not runs:
        raise CharlmError(f"No finished run in {store.address} to promote.", fix="`dvc repro` creates one.")
    text = _test_digest(store.client.get_run(str(champion.run_id)) if champion else runs[0])
    same = [run for run in runs if _test_digest(run) == text] or runs
    return min(same, key=lambda run: (run.data.metrics[LOSS], run.info.start_time))


def _test_digest(run: "Run") -> str | None:
    """The digest of the test split that the run was measured on."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    tests = [entry.dataset.digest for entry in inputs if any(tag.value == "test" for tag in entry.tags)]
    return tests[0] if tests else None


def _version(client: "MlflowClient", run: "Run") -> "ModelVersion":
    """The version of the registered model that is the model of the run, created if needed."""
    models = [model for model in models_of(client, run) if model.status == "READY"]
    if run.info.status != "FINISHED" or LOSS not in run.data.metrics or not models:
        raise CharlmError(
            f"Run {run.info.run_name} ({run.info.status}) has no model or no test loss: its record is not complete.",
            fix=f"`{RECORD_LATER}` completes it if its result is under data/, `charlm sync` if it is in DVC's cache.",
        )
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME, description="Character models, promoted by their loss on the test split.")
    versions = client.search_model_versions(f"name = '{NAME}' and run_id = '{run.info.run_id}'")
    if versions:
        return versions[0]
    model = models[0].model_id
    version = client.create_model_version(NAME, f"models:/{model}", run.info.run_id, model_id=model)
    # The page of the model shows this as its registered version.
    client.set_logged_model_tags(model, {MODEL_VERSIONS: json.dumps([{"name": NAME, "version": version.version}])})
    return version


def _require_better(run: "Run", best: "Run", version: str) -> None:
    """Raise CharlmError unless `run` has a lower loss than `best`, the champion of this version, on the same text."""
    mine, theirs = run.data.metrics[LOSS], best.data.metrics.get(LOSS, math.nan)
    if _test_digest(run) != _test_digest(best):
        problem = f"run {run.info.run_name} was measured on another text, their losses do not compare"
    elif mine < theirs:
        return
    else:
        problem = f"run {run.info.run_name} has {mine:.4f}, which is not better"
    champion = f"Version {version} of {NAME} (run {best.info.run_name}, test loss {theirs:.4f})"
    raise CharlmError(f"{champion} stays the {CHAMPION}: {problem}.", fix="--force moves the alias anyway.")


def model_files(model: str | None, temporary: Path) -> tuple[Path, Path]:
    """Checkpoint and vocabulary of `model`: a folder, an MLflow URI fetched into `temporary`, or the project's data.

    In the folder they are side by side, as in a run's artifacts or an MLflow model, or where the stages write them.
    """
    if model is None:
        folder = project_root() / "data"
    elif model.startswith(("runs:", "models:")):
        folder = _download(Store(project_root()), model, temporary)
    else:
        folder = Path(model)
    inside = [("", ""), ("artifacts/", "artifacts/"), ("checkpoint/", "checkpoint/"), ("train/", "prepare/")]
    pairs = [(f"{first}model.safetensors", f"{second}vocabulary.json") for first, second in inside]
    for checkpoint, vocabulary in pairs:
        if (folder / checkpoint).is_file() and (folder / vocabulary).is_file():
            return folder / checkpoint, folder / vocabulary
    raise CharlmError(
        f"No model in {folder}: looked for {' and for '.join(' with '.join(pair) for pair in pairs)}.",
        fix="`dvc repro` trains one, `dvc pull` fetches one from a remote, --model chooses another folder.",
    )


def _download(store: Store, uri: str, folder: Path) -> Path:
    """Fetch the artifacts at `uri` into `folder` and return where; CharlmError if there are none."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    address = urlsplit(uri)
    run_id, _, path = address.path.strip("/").partition("/")
    try:
        if address.scheme == "runs":
            artifact = "checkpoint" if path in ("", NAME) else path  # has the same files as the run's model
            return Path(store.client.download_artifacts(run_id, artifact, str(folder)))
        with set_environ("MLFLOW_TRACKING_URI", store.uri):
            return Path(download_artifacts(uri, dst_path=str(folder)))
    except (MlflowException, OSError) as err:
        raise CharlmError(
            f"No model at {uri} in {store.address}: {reason(err)}",
            f"Expected runs:/<run id>, models:/{NAME}@{CHAMPION}, models:/{NAME}/<version> or models:/<model id>; "
            "`charlm ui` shows them.",
        ) from err
