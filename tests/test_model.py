"""The model of a run as MLflow's users take it: served, promoted, loaded where charlm is not."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.models import Model

from charlm.cli import main
from tests.conftest import with_store
from tests.trainings import charlm, invoke

Run = Callable[..., Any]
Ask = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def promoted(finished_project: Path, once: Callable[..., Path]) -> Path:
    """A copy of the finished project whose only run was promoted. Not to be changed."""

    def fill(folder: Path) -> None:
        shutil.copytree(finished_project, folder, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
        with_store(folder, finished_project)
        assert "now the champion" in charlm(folder, "promote")

    return once("promoted", fill)


def client(project: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


@contextmanager
def served(project: Path) -> Iterator[Ask]:
    """The champion behind `mlflow models serve`; a function that posts a body and gives status and answer."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    command = ["mlflow", "models", "serve", "-m", "models:/charlm@champion", "--env-manager", "local", "--port", port]
    settings = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{project / 'mlflow.db'}"}
    process = subprocess.Popen(
        command, cwd=project.parent, env=settings, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stderr is not None
        assert any("Uvicorn running on" in line for line in process.stderr)
        yield lambda **body: post(f"http://127.0.0.1:{port}/invocations", body)
    finally:
        os.killpg(process.pid, 15)
        process.communicate()


def post(address: str, body: dict[str, Any]) -> tuple[int, str]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as err:
        return err.code, err.read().decode()


def test_served_champion_answers_as_generate_does_and_outlives_bad_requests(promoted: Path, run: Run) -> None:
    """One server for all of it: starting one takes seconds."""
    params = {"max_new_tokens": 40, "temperature": 0.5, "seed": 7}
    generate = ["charlm", "generate", "--length", "40", "--temperature", "0.5", "--seed", "7"]
    expected = [run(promoted, *generate, prompt).stdout.removesuffix("\n") for prompt in ("The ", "the ")]
    with served(promoted) as ask:
        for _ in range(2):
            status, answer = ask(inputs=["The ", "the "], params=params)
            assert status == 200
            assert json.loads(answer) == {"predictions": expected}
        refused = {
            "(U+0449, CYRILLIC SMALL LETTER SHCHA) at position 4": {"inputs": ["The щ"]},
            "It is empty": {"inputs": [""]},
            "1001 prompts: expected at most 1000": {"inputs": ["a"] * 1001},
            "10000 prompts: expected at most 1000": {"inputs": ["a"] * 10_000},
            "1000 times 5000 characters: expected at most 1000000": {
                "inputs": ["a"] * 1000,
                "params": {"max_new_tokens": 5000},
            },
            "temperature is -1.0: expected a finite number above 0": {"inputs": ["a"], "params": {"temperature": -1.0}},
            "max_new_tokens is 0: expected 1 or more": {"inputs": ["a"], "params": {"max_new_tokens": 0}},
            "seed is -1: expected 0 or more": {"inputs": ["a"], "params": {"seed": -1}},
            "seed is null: expected a number": {"inputs": ["a"], "params": {"seed": None}},
            "Model inference is missing inputs": {"inputs": []},
            "A prompt is None: expected a string": {"inputs": [None]},
            "A prompt is nan: expected a string": {"inputs": ["The ", None]},
            "A prompt is 5: expected a string": {"inputs": ["The ", 5]},
            "A prompt is 7: expected a string": {"inputs": 7},
            "A prompt is True: expected a string": {"instances": [True]},
            "A prompt is 1.5: expected a string": {"dataframe_split": {"columns": ["prompt"], "data": [["a"], [1.5]]}},
            "expects a single n-dimensional array or a single value": {"inputs": {"prompt": "The "}},
            "Failed to validate type and shape for 'seed'": {"inputs": ["a"], "params": {"seed": "seven"}},
        }
        for message, body in refused.items():
            status, answer = ask(**body)
            assert (status, message in answer) == (400, True), answer
        assert ask(inputs=["The "], params=params) == (200, json.dumps({"predictions": expected[:1]}))
        status, answer = ask(inputs=["The "])
        assert status == 200
        assert len(json.loads(answer)["predictions"][0]) == len("The ") + 500


@pytest.fixture(scope="module")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the same packages but charlm: its .pth counts in its own place only."""
    folder = tmp_path_factory.mktemp("plain")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [packages] = (folder / "lib").glob("python*/site-packages")
    [ours] = (Path(sys.prefix) / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(f"{ours}\n")
    return folder / "bin/python"


CLIENT = """
import importlib.util, sys
import mlflow
assert importlib.util.find_spec("charlm") is None
mlflow.set_tracking_uri(sys.argv[1])
print(len(mlflow.search_runs(experiment_names=["charlm"])))
champion = mlflow.pyfunc.load_model("models:/charlm@champion")
print(repr(champion.predict(["The "], params={"max_new_tokens": 30, "seed": 7})))
print(mlflow.artifacts.download_artifacts("models:/charlm@champion", dst_path=sys.argv[2]))
"""


def test_client_without_charlm_lists_the_runs_and_generates(
    promoted: Path, plain_python: Path, run: Run, tmp_path: Path
) -> None:
    store = f"sqlite:///{promoted / 'mlflow.db'}"
    safe = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": ""}
    done = run(tmp_path, str(plain_python), "-c", CLIENT, store, str(tmp_path / "model"), **safe)
    expected = run(promoted, "charlm", "generate", "--length", "30", "--seed", "7", "The ").stdout.removesuffix("\n")
    assert done.stdout.splitlines()[:2] == ["1", repr([expected])]
    files = {path.name for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert {"MLmodel", "model.safetensors", "vocabulary.json", "pyfunc.py", "requirements.txt"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]
    [pins] = (tmp_path / "model").rglob("requirements.txt")
    names = {line.partition("==")[0] for line in pins.read_text().split()}
    assert names == {"mlflow", "numpy", "safetensors"}


def test_model_says_what_it_takes(promoted: Path) -> None:
    [model] = client(promoted).search_logged_models(["1"])
    saved = Model.load(model.artifact_location.removeprefix("file://"))
    assert saved.signature is not None
    assert saved.signature.params.to_dict() == [
        {"name": "max_new_tokens", "default": 500, "shape": None, "type": "long"},
        {"name": "temperature", "default": 1.0, "shape": None, "type": "double"},
        {"name": "seed", "default": 1337, "shape": None, "type": "long"},
    ]
    assert saved.saved_input_example_info is not None


def test_generate_takes_every_address_of_a_model(promoted: Path) -> None:
    [version] = client(promoted).search_model_versions("name = 'charlm'")
    [logged] = client(promoted).search_logged_models(["1"])
    here = generate(promoted, str(promoted / "data"))
    name = "bigram on tale"
    addresses = [f"runs:/{version.run_id}", f"runs:/{version.run_id}/charlm", f"models:/{logged.model_id}"]
    addresses += ["models:/charlm@champion", "models:/charlm/1"]
    places = {uri: uri for uri in addresses} | {"data": "data"}
    places |= dict.fromkeys([name, version.run_id[:8], "latest"], f"run {name} ({version.run_id[:12]})")
    for reference, place in places.items():
        found = generate(promoted, reference)
        assert (found.stdout, found.stderr) == (here.stdout, f"bigram from {place}:\n")
        again = charlm(promoted, "promote", reference)
        assert again.startswith(f"Run {name} ({version.run_id[:12]}), test loss "), again
        assert again.endswith(" is version 1 of the model charlm and the champion already.\n")


def test_outside_of_a_project_the_store_of_the_environment_is_read_and_nothing_is_made(
    promoted: Path, tmp_path: Path
) -> None:
    """An installed charlm used to find no model in any store: it asked for a dvc.yaml."""
    here, store = generate(promoted, "latest"), {"MLFLOW_TRACKING_URI": f"sqlite:///{promoted / 'mlflow.db'}"}
    arguments = ["generate", "--seed", "7", "--length", "20", "The ", "--model"]
    missing = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'none.db'}"}
    unknown = store | {"MLFLOW_EXPERIMENT_NAME": "other"}
    with contextlib.chdir(tmp_path):
        assert CliRunner(env=store).invoke(main, [*arguments, "models:/charlm@champion"]).stdout == here.stdout
        assert CliRunner(env=store).invoke(main, [*arguments, "latest"]).stdout == here.stdout
        for settings, problem in (
            ({}, "set MLFLOW_TRACKING_URI to a store."),
            (missing, f"there is no file {tmp_path}/none.db."),
            (unknown, "it has no experiment other; MLFLOW_EXPERIMENT_NAME chooses another."),
        ):
            refused = CliRunner(env=settings).invoke(main, [*arguments, "latest"])
            assert (refused.exit_code, problem in refused.output) == (1, True), refused.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["runs:/nothing", "models:/charlm@nobody", "models:/other/1", "models:/charlm/x/y/z"])
def test_address_that_leads_nowhere_is_reported_with_those_that_lead_somewhere(promoted: Path, uri: str) -> None:
    output = generate(promoted, uri, code=1).output
    assert output.startswith(f"Error: No model at {uri} in sqlite:///{promoted}/mlflow.db: ")
    assert "Expected runs:/<run id>, models:/charlm@champion, models:/charlm/<version> or models:/<model id>" in output


def generate(project: Path, model: str, code: int = 0) -> Result:
    """`charlm generate --model` in the project, on its store."""
    command = ["charlm", "generate", "--seed", "7", "--length", "20", "--model", model, "The "]
    return invoke(project, main, command[1:], code, MLFLOW_TRACKING_URI=f"sqlite:///{project / 'mlflow.db'}")
