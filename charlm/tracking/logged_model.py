"""The trained model as an MLflow model of its run: text in, text out, loaded by any MLflow client.

It is a model from code (`pyfunc.py`) beside checkpoint, vocabulary and the modules of charlm that it runs; nothing is
pickled.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.config import MODELS
from charlm.tracking.content import Content
from charlm.tracking.entities import as_params
from charlm.tracking.process import has_ended, process
from charlm.tracking.store import PROCESS_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run
    from mlflow.models import ModelSignature

NAME = "charlm"
_MODULES = {
    "": ("__init__", "config", "errors", "files", "random"),
    "exact/": ("__init__", "elementary", "errors"),
    "models/": ("__init__", "checkpoint", "predictor", "sampling"),
    "text/": ("__init__", "corpus", "vocabulary"),
}
CODE = tuple(f"{folder}{name}.py" for folder, names in _MODULES.items() for name in names)
"""The files of charlm that every model runs."""
_LONGEST = 3600.0  # seconds that another machine may take to log a model
_PACKAGE = Path(__file__).parents[1]
_IMPORTED = ("mlflow", "numpy", "safetensors")
"""The packages that they import and that no other of them brings along; a LanguageModel adds torch."""


def model_code(name: str) -> tuple[str, ...]:
    """The files that the model `name` predicts with, base.py among them if it is a LanguageModel itself."""
    model = MODELS[name]
    own = f"models/{model.predictor.partition(':')[0]}.py"
    if model.predictor != model.trainable:
        return (own,)
    return (
        own,
        "models/base.py",
        *(f"exact/{name}.py" for name in ("functions", "grid", "mode", "operations", "random")),
    )


def models_of(client: "MlflowClient", run: "Run") -> "list[LoggedModel]":
    """The models of the run, complete or not."""
    condition = f"source_run_id = '{run.info.run_id}'"
    found: list[LoggedModel] = client.search_logged_models([run.info.experiment_id], condition)
    return found


def complete_model(client: "MlflowClient", run_id: str, content: Content, measured: "Sequence[Metric]") -> None:
    """Log the model of the run if it has none, and link the metrics of the run that were `measured` on it.

    A model whose logging was cut short is deleted; one that another process is logging is left to it.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    run = client.get_run(run_id)
    models = models_of(client, run)
    ready = [model.model_id for model in models if model.status == "READY"]
    for model in models:
        if model.status != "READY":
            if not _is_abandoned(model):
                return
            client.delete_logged_model(model.model_id)
    model_id = ready[0] if ready else _log(client, run, content)
    if model_id not in [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]:
        # A metric with the timestamp that it has is the same point, not a second one.
        linked = [
            Metric(m.key, m.value, m.timestamp, m.step, model_id=model_id, **_dataset_of(m.key, run)) for m in measured
        ]
        client.log_batch(run_id, metrics=linked)
        client.log_outputs(run_id, [LoggedModelOutput(model_id, int(content.params["train.max_iters"]))])


def _dataset_of(key: str, run: "Run") -> dict[str, str]:
    """Name and digest of the dataset that the metric `key` was measured on: the split behind its slash."""
    return {
        name: value
        for entry in (run.inputs.dataset_inputs if run.inputs else [])
        for name, value in {"dataset_name": entry.dataset.name, "dataset_digest": entry.dataset.digest}.items()
        if key.rpartition("/")[2] in [tag.value for tag in entry.tags]
    }


def _is_abandoned(model: "LoggedModel") -> bool:
    """Whether the process that was logging the model has stopped."""
    owner = model.tags.get(PROCESS_TAG, "")
    age = time.time() - model.creation_timestamp / 1000
    return owner == process() or has_ended(owner) or age > _LONGEST


def _log(client: "MlflowClient", run: "Run", content: Content) -> str:
    """Log a new model of the run and return its id."""
    params = {param.key: param.value for param in as_params(content.params)}
    model = client.create_logged_model(run.info.experiment_id, NAME, run.info.run_id, {PROCESS_TAG: process()}, params)
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder), model, content)
        client.log_model_artifacts(model.model_id, f"{folder}/model")
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _save(folder: Path, model: "LoggedModel", content: Content) -> None:
    """Write the model's artifacts to `folder`/model; sampling's parameters in `content` are the defaults."""
    from mlflow.models.model import Model
    from mlflow.pyfunc import save_model

    code, own = folder / "charlm", model_code(content.params["model.name"])
    packages = (*_IMPORTED, "torch") if "models/base.py" in own else _IMPORTED
    for name in (*CODE, *own):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_PACKAGE / name, code / name)
    files = {}
    for name, source in {"checkpoint": content.checkpoint, "vocabulary": content.vocabulary}.items():
        files[name] = str(shutil.copyfile(source, folder / source.name))  # not a link
    sampling = {name: content.params[f"sample.{name}"] for name in ("max_new_tokens", "temperature", "seed")}
    save_model(
        path=str(folder / "model"),
        mlflow_model=Model(model.artifact_location, model.source_run_id, model_id=model.model_id),
        python_model=str(_PACKAGE / "tracking/pyfunc.py"),
        code_paths=[str(code)],
        artifacts=files,
        signature=_signature(sampling),
        input_example=([content.example], sampling),
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in packages],
    )


def _signature(sampling: Mapping[str, Any]) -> "ModelSignature":
    """A text for each text, and the parameters of sampling with their defaults.

    For a string MLflow would take anything, 5 as "5" and null as "None"; the model itself refuses them.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    types = {"max_new_tokens": "long", "temperature": "double", "seed": "long"}
    specs = [ParamSpec(name, types[name], value) for name, value in sampling.items()]
    return ModelSignature(Schema([ColSpec(AnyType())]), Schema([ColSpec("string")]), ParamSchema(specs))
