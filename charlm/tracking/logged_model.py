"""The trained model as an MLflow model of its run: text in, text out, loaded by any MLflow client.

A model from code (`served.py`) beside checkpoint, vocabulary and charlm's own modules; nothing is pickled.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.config import MODELS
from charlm.provenance.code import is_gone, process
from charlm.tracking.entities import as_params
from charlm.tracking.store import PROCESS_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import ModelSignature

NAME = "charlm"
CODE = (
    "__init__.py",
    "config.py",
    "errors.py",
    "files.py",
    "models/__init__.py",
    "models/checkpoint.py",
    "models/predictor.py",
    "models/sampling.py",
    "random.py",
    "text/__init__.py",
    "text/corpus.py",
    "text/vocabulary.py",
)
"""The modules of charlm that the model runs."""
_LONGEST = 3600.0  # seconds that logging a model may take on a machine that we do not see
_PACKAGE = Path(__file__).parents[1]
_IMPORTED = ("mlflow", "numpy", "safetensors", "torch")
"""The packages that they import, and none comes with another."""


def model_code(name: str) -> tuple[str, ...]:
    """The files of the model `name` that predict; the ways of all models are with them where it uses these."""
    model = MODELS[name]
    own = f"models/{model.predictor.partition(':')[0]}.py"
    return (own, "models/base.py") if model.predictor == model.trainable else (own,)


@dataclass(frozen=True)
class Trained:
    """What the model of a run is made of: two files, and a prompt as its example."""

    checkpoint: Path
    vocabulary: Path
    example: str


def models_of(client: "MlflowClient", run: "Run") -> "list[LoggedModel]":
    """The models of the run, whole ones and others."""
    condition = f"source_run_id = '{run.info.run_id}'"
    found: list[LoggedModel] = client.search_logged_models([run.info.experiment_id], condition)
    return found


def complete_model(
    client: "MlflowClient", run_id: str, trained: Trained, params: Mapping[str, Any], measured: Sequence[str]
) -> None:
    """Log the model of the run if it has none, made of `trained`, with the run's metrics that were `measured` on it.

    `params` are those of every section by dotted key, the sample's are the model's defaults.
    A model whose logging was cut short is deleted.
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    models = models_of(client, run)
    whole = [model.model_id for model in models if model.status == "READY"]
    begun = [model for model in models if model.model_id not in whole]
    for model in begun:
        if _is_left(model):
            client.delete_logged_model(model.model_id)
        else:
            return  # another record is at it
    model_id = whole[0] if whole else _log(client, run, trained, params)
    if model_id not in [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]:
        _link_metrics(client, run, model_id, measured)
        client.log_outputs(run_id, [LoggedModelOutput(model_id, int(params["train.max_iters"]))])


def _is_left(model: "LoggedModel") -> bool:
    """Whether nothing works any more on a model that is not whole."""
    owner = model.tags.get(PROCESS_TAG, "")
    age = time.time() - model.creation_timestamp / 1000
    return owner == process() or is_gone(owner) or age > _LONGEST


def _log(client: "MlflowClient", run: "Run", trained: Trained, params: Mapping[str, Any]) -> str:
    """Make a new model of the run and return its id."""
    held = {param.key: param.value for param in as_params(params)}
    model = client.create_logged_model(run.info.experiment_id, NAME, run.info.run_id, {PROCESS_TAG: process()}, held)
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder), model, trained, params)
        client.log_model_artifacts(model.model_id, f"{folder}/model")
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _save(folder: Path, model: "LoggedModel", trained: Trained, params: Mapping[str, Any]) -> None:
    """Write the model's artifacts to `folder`/model."""
    from mlflow.models.model import Model
    from mlflow.pyfunc import save_model

    code = folder / "charlm"
    for name in (*CODE, *model_code(params["model.name"])):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_PACKAGE / name, code / name)
    sampling = {name: params[f"sample.{name}"] for name in ("max_new_tokens", "temperature", "seed")}
    save_model(
        path=str(folder / "model"),
        mlflow_model=Model(model.artifact_location, model.source_run_id, model_id=model.model_id),
        python_model=str(_PACKAGE / "tracking/pyfunc.py"),
        code_paths=[str(code)],
        artifacts={"checkpoint": str(trained.checkpoint), "vocabulary": str(trained.vocabulary)},
        signature=_signature(sampling),
        input_example=([trained.example], sampling),
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _IMPORTED],
    )


def _signature(sampling: Mapping[str, Any]) -> "ModelSignature":
    """A text for each text, with the parameters of sampling and what they are if they are not given."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    types = {"max_new_tokens": "long", "temperature": "double", "seed": "long"}
    specs = [ParamSpec(name, types[name], value) for name, value in sampling.items()]
    texts = Schema([ColSpec("string")])
    return ModelSignature(inputs=texts, outputs=texts, params=ParamSchema(specs))


def _link_metrics(client: "MlflowClient", run: "Run", model_id: str, names: Sequence[str]) -> None:
    """Tell that the last values of these metrics of the run were measured on the model."""
    from mlflow.entities import Metric

    histories = [client.get_metric_history(run.info.run_id, name) for name in names]
    last = [max(history, key=lambda metric: (metric.step, metric.timestamp)) for history in histories]
    # With the time that it has, a point is the same point, not a second one.
    linked = [Metric(m.key, m.value, m.timestamp, m.step, model_id=model_id) for m in last]
    client.log_batch(run.info.run_id, metrics=linked)
