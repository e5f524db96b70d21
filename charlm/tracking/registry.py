"""The registered model: versions from runs, and the alias `champion` on the best one."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from charlm.errors import CharlmError
from charlm.tracking.find import CHAMPION, find_run
from charlm.tracking.logged_model import NAME, models_of
from charlm.tracking.store import CHECKPOINT_TAG, RECORD_LATER, Store, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

MODEL_VERSIONS = "mlflow.modelVersions"
LOSS = "loss/test"
DIGEST_TAG = "charlm.test_digest"
"""A version's digest of the test split; with it and its loss a version can be compared when its run is gone."""
T = TypeVar("T")


def promote(store: Store, reference: str | None, *, force: bool = False) -> str:
    """Register the model of a run and make it the champion if it is better; return a sentence about it.

    `reference` is what `find_run` takes; the default is the run with the lowest test loss on the champion's text. A run
    is better if its loss on the same test split is lower; `force` skips that check.

    Raises CharlmError if there is no such run or it does not become the champion.
    """
    with store.as_default(), store_errors(store.registry_uri):
        champion = _champion(store.client)
        with store_errors(store.uri):
            run = find_run(store, reference) if reference else _best(store, champion)
            model_id = _require_model(store.client, run)
        found = f"Run {run.info.run_name} ({run.info.run_id[:12]}), test loss {run.data.metrics[LOSS]:.4f}, is version "
        if champion and champion.run_id == run.info.run_id:
            return f"{found}{champion.version} of the model {NAME} and the {CHAMPION} already."
        description = f"Test loss {run.data.metrics[LOSS]:.4f}; {_why(store, run, champion, force=force)}."
        version = _version(store.client, run, model_id, description)
        store.client.set_registered_model_alias(NAME, CHAMPION, version)
    return f"{found}{version} of the model {NAME} and now the {CHAMPION}: models:/{NAME}@{CHAMPION}"


def _champion(client: "MlflowClient") -> "ModelVersion | None":
    """The version with the alias, if there is one; an alias can outlive its version."""
    # A server with users refuses to look up the alias of a model that does not exist.
    aliases = [model.aliases for model in client.search_registered_models(f"name = '{NAME}'")]
    if not aliases or CHAMPION not in aliases[0]:
        return None
    return _if_there(lambda: client.get_model_version(NAME, str(aliases[0][CHAMPION])))


def _if_there(get: Callable[[], T]) -> T | None:
    """What `get` gets from MLflow; None if MLflow has no such thing, or no longer."""
    from mlflow.exceptions import MlflowException

    try:
        return get()
    except MlflowException as err:
        if err.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _measured(store: Store, version: "ModelVersion") -> tuple[float, str | None] | None:
    """Loss on the test split, and that split's digest: from the version, else from its run; None if that is gone."""
    if LOSS in version.tags:
        return float(version.tags[LOSS]), version.tags.get(DIGEST_TAG)
    run_id = version.run_id
    with store_errors(store.uri):
        run = _if_there(lambda: store.client.get_run(run_id)) if run_id else None
    return (run.data.metrics[LOSS], _test_digest(run)) if run and LOSS in run.data.metrics else None


def _best(store: Store, champion: "ModelVersion | None") -> "Run":
    """The finished run with the lowest test loss, the first of several, on the text of the champion or the last run."""
    finished = store.runs("attributes.status = 'FINISHED'")
    runs = [run for run in finished if CHECKPOINT_TAG in run.data.tags and LOSS in run.data.metrics]
    if not runs:
        raise CharlmError(f"No finished run in {store.address} to promote.", fix="`dvc repro` creates one.")
    measured = _measured(store, champion) if champion else None
    text = measured[1] if measured else _test_digest(runs[0])
    same = [run for run in runs if _test_digest(run) == text] or runs
    return min(same, key=lambda run: (run.data.metrics[LOSS], run.info.start_time))


def _test_digest(run: "Run") -> str | None:
    """The digest of the test split that the run was measured on."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    tests = [entry.dataset.digest for entry in inputs if any(tag.value == "test" for tag in entry.tags)]
    return tests[0] if tests else None


def _require_model(client: "MlflowClient", run: "Run") -> str:
    """The id of the run's model; CharlmError if its record is not complete."""
    models = [model for model in models_of(client, run) if model.status == "READY"]
    if run.info.status != "FINISHED" or LOSS not in run.data.metrics or not models:
        raise CharlmError(
            f"Run {run.info.run_name} ({run.info.status}) has no model or no test loss: its record is not complete.",
            fix=f"`{RECORD_LATER}` completes it if its result is under data/, `charlm sync` if it is in DVC's cache.",
        )
    return str(models[0].model_id)


def _version(client: "MlflowClient", run: "Run", model_id: str, description: str) -> str:
    """The version of the registered model that is the model of the run, created if needed, with this description."""
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME, description="Character models, promoted by their loss on the test split.")
    versions = client.search_model_versions(f"name = '{NAME}' and run_id = '{run.info.run_id}'")
    if versions:
        client.update_model_version(NAME, versions[0].version, description)
        return str(versions[0].version)
    tags = {LOSS: str(run.data.metrics[LOSS]), DIGEST_TAG: _test_digest(run) or ""}
    source = f"models:/{model_id}"
    version = client.create_model_version(
        NAME, source, run.info.run_id, tags, description=description, model_id=model_id
    )
    # The page of the model shows this as its registered version.
    client.set_logged_model_tags(model_id, {MODEL_VERSIONS: json.dumps([{"name": NAME, "version": version.version}])})
    return str(version.version)


def _why(store: Store, run: "Run", champion: "ModelVersion | None", *, force: bool) -> str:
    """Why the run becomes the champion, for a description; CharlmError if it may not: it is not better on its text."""
    if champion is None:
        return f"there was no {CHAMPION}"
    mine, measured = run.data.metrics[LOSS], _measured(store, champion)
    loss = f", test loss {measured[0]:.4f}" if measured else ""
    before = f"version {champion.version} of {NAME} (run {str(champion.run_id)[:12]}{loss})"
    if measured is None:
        problem = f"its run is not in {store.address}, their losses cannot be compared"
    elif _test_digest(run) != measured[1]:
        problem = f"run {run.info.run_name} was measured on another text, their losses do not compare"
    elif mine < measured[0]:
        return f"better than {before} on the same text"
    else:
        problem = f"run {run.info.run_name} has {mine:.4f}, which is not better"
    if force:
        return f"promoted by --force over {before}"
    raise CharlmError(f"The {CHAMPION} stays {before}: {problem}.", fix="--force moves the alias anyway.")
