"""Every model of the registry as MLflow keeps it: its figures, and its model as a client loads it."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from charlm.config import MODELS

pytestmark = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def recorded(sweep: Path, name: str) -> Any:
    """The run of the model's recipe."""
    client = MlflowClient(f"sqlite:///{sweep / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ladder")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    return run


@pytest.fixture
def loaded(sweep: Path, recorded: Any) -> Any:
    client = MlflowClient(f"sqlite:///{sweep / 'mlflow.db'}")
    [output] = recorded.outputs.model_outputs
    return mlflow.pyfunc.load_model(client.get_logged_model(output.model_id).artifact_location)


def artifact(run: Any, name: str) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://")) / name


def test_record_has_what_context_and_surprise_come_to(recorded: Any, name: str) -> None:
    assert (recorded.info.status, recorded.data.params["model.name"]) == ("FINISHED", name)
    for figure in ("loss.png", "context.png", "surprise.png", "surprise.html", "next_char.png"):
        assert artifact(recorded, f"figures/{figure}").stat().st_size > 1000


def test_model_continues_as_its_sample_does_and_each_prompt_whatever_the_others(recorded: Any, loaded: Any) -> None:
    [text] = loaded.predict(["\n"])
    assert text == artifact(recorded, "samples/trained.txt").read_text()
    prompts, settings = ["The ", "A", "the ", "\n"] * 20, {"max_new_tokens": 8}
    together = loaded.predict(prompts, params=settings)
    assert together == [loaded.predict([prompt], params=settings)[0] for prompt in prompts[:4]] * 20


def test_request_of_too_much_work_is_refused_with_its_seconds(loaded: Any) -> None:
    model = loaded.unwrap_python_model()
    assert model.first > 0
    model.first, model.each = 0.25, 0.01
    with pytest.raises(MlflowException, match=r"4 times 300 characters would take 156 s: expected at most 60\."):
        loaded.predict(["a", "b", "c", "ab"], params={"max_new_tokens": 300})
