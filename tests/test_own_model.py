"""A model of one's own is a file, an entry in the registry and a section in params.yaml: all else it gets."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.code_deps import PROJECT

ENTRY = "MODELS = {\n"


def test_unigram_runs_through_the_pipeline_with_its_record_and_its_served_model(
    project: Path, run: Callable[..., Any]
) -> None:
    shutil.copy(PROJECT / "tests/unigram.py", project / "charlm/models")
    config, params = project / "charlm/config.py", project / "params.yaml"
    own = '    "unigram": Registered(Section, "unigram:Unigram", "unigram:Unigram"),\n'
    config.write_text(config.read_text().replace(ENTRY, ENTRY + own))
    params.write_text(params.read_text().replace("  name: bigram\n", "  name: unigram\n  unigram: {}\n"))
    plain = ("-S", "train.precision=float64")  # exact needs the operations of charlm/models/operations.py
    run(
        project,
        "dvc",
        "exp",
        "run",
        "-S",
        "train.learning_rate=0.1",
        "-S",
        "train.batch_size=16",
        *plain,
        PYTHONPATH=".",
    )

    metrics = json.loads((project / "data/evaluate/metrics.json").read_text())
    assert metrics["test"]["loss"] == pytest.approx(metrics["reference"]["unigram"], abs=0.02)
    sampled = (project / "data/sample/trained.txt").read_text()
    assert len(sampled) == 501
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    [recorded] = client.search_runs(["1"])
    assert (recorded.info.status, recorded.data.params["model.name"]) == ("FINISHED", "unigram")
    assert recorded.data.metrics["loss/test"] == metrics["test"]["loss"]
    [logged] = client.search_logged_models(["1"])
    held = {path.name for path in Path(logged.artifact_location.removeprefix("file://")).rglob("*.py")}
    assert {"unigram.py", "base.py"} <= held
    assert "table.py" not in held
    [pins] = Path(logged.artifact_location.removeprefix("file://")).rglob("requirements.txt")
    assert "torch==2.13.0" in pins.read_text()

    show = f"import mlflow; print(mlflow.pyfunc.load_model({logged.artifact_location!r}).predict(['\\n'])[0], end='')"
    assert run(project.parent, "python", "-c", show).stdout == sampled
    asked = ("charlm", "generate", "--seed", "1337", "\n")
    assert run(project, *asked, PYTHONPATH=".").stdout == f"{sampled}\n"
