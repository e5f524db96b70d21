"""A model of one's own is a file, an entry in the registry and a section in params.yaml: all else it gets."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from tests.code_deps import PROJECT
from tests.every_process import machine

ENTRY, REGISTRY = "MODELS = {\n", "class Registered(NamedTuple):\n"
SETTINGS = '''class LSTMParams(Section):
    """The size of an LSTM's embeddings, and its hidden units."""

    n_embd: Count
    n_hidden: Count


'''


@pytest.mark.long
def test_lstm_of_several_texts_runs_through_the_pipeline_in_exact_with_its_record_and_its_served_model(
    project: Path, run: Callable[..., Any]
) -> None:
    """In plain PyTorch; and it is reproduced under other instructions and in one thread."""
    tale = (project / "data/download/book.txt").read_text()
    (project / "books").mkdir()
    books = {name: f"The text {name}, naïve and short.\n" * 20 for name in "ab"}
    for name, encoding in {"b": "utf-8", "a": "utf-16"}.items():
        (project / f"books/{name}.txt").write_text(books[name], encoding)
    run(project, "git", "add", "books")
    shutil.copy(PROJECT / "tests/lstm.py", project / "charlm/models")
    run(project, "git", "add", "charlm/models/lstm.py")
    config, params = project / "charlm/config.py", project / "params.yaml"
    own = '    "lstm": Registered(LSTMParams, "lstm:LSTM", "lstm:LSTM"),\n'
    config.write_text(config.read_text().replace(ENTRY, ENTRY + own).replace(REGISTRY, SETTINGS + REGISTRY))
    section = "  name: lstm\n  lstm: {n_embd: 16, n_hidden: 32}\n"
    params.write_text(params.read_text().replace("  name: bigram\n", section))
    settings = {
        "data.source": "[tests/tale.txt,books/*.txt]",
        "train.learning_rate": 0.01,
        "train.batch_size": 16,
        "train.max_iters": 150,
    }
    sets = [word for key, value in settings.items() for word in ("-S", f"{key}={value}")]
    run(project, "dvc", "exp", "run", *sets, PYTHONPATH=".")

    assert (project / "data/download/book.txt").read_text() == f"{tale}\n{books['a']}\n{books['b']}"
    metrics = json.loads((project / "data/evaluate/metrics.json").read_text())
    assert metrics["test"]["loss"] < metrics["reference"]["unigram"] - 0.2
    sampled = (project / "data/sample/trained.txt").read_text()
    assert len(sampled) == 501
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    [recorded] = client.search_runs(["1"])
    assert (recorded.info.status, recorded.data.params["model.name"]) == ("FINISHED", "lstm")
    assert recorded.data.metrics["loss/test"] == metrics["test"]["loss"]
    assert_names_its_texts(recorded)
    [logged] = client.search_logged_models(["1"])
    held = {path.name for path in Path(logged.artifact_location.removeprefix("file://")).rglob("*.py")}
    assert {"lstm.py", "base.py", "mode.py"} <= held
    assert "table.py" not in held
    [pins] = Path(logged.artifact_location.removeprefix("file://")).rglob("requirements.txt")
    assert "torch==2.13.0" in pins.read_text()

    show = f"import mlflow; print(mlflow.pyfunc.load_model({logged.artifact_location!r}).predict(['\\n'])[0], end='')"
    assert run(project.parent, "python", "-c", show).stdout == sampled
    asked = ("charlm", "generate", "--seed", "1337", "\n")
    assert run(project, *asked, PYTHONPATH=".").stdout == f"{sampled}\n"
    other = machine("default", "COMPATIBLE", 1)
    assert "DIFFERENT" not in run(project, "charlm", "reproduce", "latest", PYTHONPATH=".", **other).stdout


def assert_names_its_texts(run: MlflowRun) -> None:
    assert run.data.params["data.source"] == '["tests/tale.txt", "books/*.txt"]'
    assert "on 2 texts: " in run.data.tags["mlflow.note.content"]
    assert "\nDecoded from utf-8 (2), utf-16 (1).\n" in run.data.tags["mlflow.note.content"]
    sources = Path(run.info.artifact_uri.removeprefix("file://")) / "sources.json"
    assert json.loads(sources.read_text()) == [
        {"source": "tests/tale.txt", "encoding": "utf-8"},
        {"source": "books/a.txt", "encoding": "utf-16"},
        {"source": "books/b.txt", "encoding": "utf-8"},
    ]
    datasets = [entry.dataset for entry in run.inputs.dataset_inputs]
    assert [dataset.name for dataset in datasets] == ["2 texts train", "2 texts test"]
    assert json.loads(datasets[0].source) == {"tags": {"texts": ["tests/tale.txt", "books/*.txt"]}}
