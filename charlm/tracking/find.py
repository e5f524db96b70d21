"""A run or a model, found by what a person calls it: one way for every command."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import safetensors

from charlm.config import project_root
from charlm.errors import CharlmError
from charlm.files import sha256
from charlm.models.checkpoint import METADATA_KEY
from charlm.provenance.code import EXPERIMENT_TAG
from charlm.tracking.logged_model import NAME
from charlm.tracking.store import CHECKPOINT_TAG, Store, project_store, reason, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Run

CHAMPION = "champion"
REFERENCES = "a run's name, its id or the beginning of one, `latest`, a folder with a model, or an MLflow address"
"""What a person may call a run or its model."""
_ADDRESSES = ("runs:", "models:")
_PLACES = [("", ""), ("artifacts", "artifacts"), ("checkpoint", "checkpoint"), ("train", "prepare")]
"""Where a folder has checkpoint and vocabulary: side by side, as in a run or an MLflow model, or as the stages do."""


class Found(NamedTuple):
    """The files of a model, and in words where it is from."""

    checkpoint: Path
    vocabulary: Path
    place: str

    def __str__(self) -> str:
        with safetensors.safe_open(self.checkpoint, framework="np") as file:
            metadata = json.loads(file.metadata()[METADATA_KEY])
        return f"{metadata['model']} from {self.place}"


def find_run(store: Store, reference: str) -> "Run":
    """The one run that `reference` means, see REFERENCES; only an address can mean one of another experiment.

    Raises CharlmError if that is no run, or several.
    """
    runs = store.runs()
    if reference.startswith(_ADDRESSES):
        return _run_at(store, reference)
    if reference == "latest":
        found = [run for run in runs if CHECKPOINT_TAG in run.data.tags][:1]
    elif _is_folder(reference):
        digest = sha256(_in_folder(Path(reference))[0])
        found = [run for run in runs if run.data.tags.get(CHECKPOINT_TAG) == digest]
    else:
        named = [run for run in runs if reference in (run.info.run_name, run.data.tags.get(EXPERIMENT_TAG))]
        found = named or [run for run in runs if run.info.run_id.startswith(reference)]
    if len(found) == 1:
        return found[0]
    several = ", ".join(f"{run.info.run_id[:12]} ({run.info.run_name})" for run in found[:5])
    none = f"no such run in {store.address}"
    raise unusable(reference, f"it matches {len(found)} runs: {several}" if found else none)


def unusable(reference: str, problem: str) -> CharlmError:
    """The error for a reference that means no run, several, or one that cannot be used."""
    return CharlmError(f"{reference}: {problem}.", f"Expected {REFERENCES}; `charlm ui` shows them.")


def _is_folder(reference: str) -> bool:
    return "/" in reference or (reference != "" and Path(reference).is_dir())


def _run_at(store: Store, uri: str) -> "Run":
    """The run at runs:/…, or the one that made the model at models:/…."""
    from mlflow.exceptions import MlflowException
    from mlflow.models import get_model_info

    try:
        with store.as_default():
            run_id = _run_id(uri) if uri.startswith("runs:") else get_model_info(uri).run_id
            return store.client.get_run(run_id)
    except (MlflowException, OSError) as err:
        raise _no_model(store, uri, err) from err


def _run_id(uri: str) -> str:
    return urlsplit(uri).path.strip("/").partition("/")[0]


def find_model(reference: str | None, temporary: Path) -> Found:
    """The files of the model that `reference` means, see REFERENCES; fetched into `temporary` if MLflow has them.

    Without a reference it is the model in the project's data. Raises CharlmError if there is none.
    """
    if reference is None:
        data = project_root() / "data"
        return Found(*_in_folder(data), f"{data}, the workspace's result; --model takes any run")
    if not reference.startswith(_ADDRESSES) and _is_folder(reference):
        return Found(*_in_folder(Path(reference)), reference)
    store, place = project_store(), reference
    if not reference.startswith(_ADDRESSES):
        with store_errors(store.uri):
            run = find_run(store, reference)
        reference, place = f"runs:/{run.info.run_id}", f"run {run.info.run_name} ({run.info.run_id[:12]})"
    return Found(*_in_folder(_download(store, reference, temporary)), place)


def _in_folder(folder: Path) -> tuple[Path, Path]:
    """Checkpoint and vocabulary in `folder`."""
    for first, second in _PLACES:
        checkpoint, vocabulary = folder / first / "model.safetensors", folder / second / "vocabulary.json"
        if checkpoint.is_file() and vocabulary.is_file():
            return checkpoint, vocabulary
    raise CharlmError(
        f"No model in {folder}: looked for model.safetensors and vocabulary.json in the folder itself, in artifacts/, "
        "in checkpoint/, and in train/ and prepare/.",
        fix="`dvc repro` trains one, `dvc pull` fetches one from a remote, `charlm generate --model` takes another.",
    )


def _download(store: Store, uri: str, folder: Path) -> Path:
    """Fetch the artifacts at `uri` into `folder` and return where; CharlmError if there are none."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        if uri.startswith("runs:"):
            path = urlsplit(uri).path.strip("/").partition("/")[2]
            artifact = "checkpoint" if path in ("", NAME) else path  # has the same files as the run's model
            return Path(store.client.download_artifacts(_run_id(uri), artifact, str(folder)))
        with store.as_default():
            return Path(download_artifacts(uri, dst_path=str(folder)))
    except (MlflowException, OSError) as err:
        raise _no_model(store, uri, err) from err


def _no_model(store: Store, uri: str, err: Exception) -> CharlmError:
    return CharlmError(
        f"No model at {uri} in {store.address}: {reason(err)}",
        f"Expected runs:/<run id>, models:/{NAME}@{CHAMPION}, models:/{NAME}/<version> or models:/<model id>; "
        "`charlm ui` shows them.",
    )
