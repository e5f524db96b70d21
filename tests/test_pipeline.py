"""The pipeline as a person runs it: real `dvc` commands in a repository of its own, a real MLflow store."""

import json
import os
import re
import shlex
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from charlm.config import flatten, load_params
from charlm.files import sha256
from charlm.provenance.repository import md5
from charlm.training.history import from_csv
from tests.trainings import run_record

ARTIFACTS = {
    "checkpoint/model.safetensors",
    "checkpoint/vocabulary.json",
    "dvc.lock",
    "environment.json",
    "figures/context.png",
    "figures/loss.png",
    "figures/next_char.png",
    "figures/surprise.html",
    "figures/surprise.png",
    "metrics.json",
    "params.yaml",
    "patch.diff",
    "samples/trained.txt",
    "samples/untrained.txt",
    "sources.json",
}
Run = Callable[..., Any]


def client(project: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def runs(project: Path) -> list[MlflowRun]:
    """All runs in the project's store, oldest first."""
    store = client(project)
    experiment = store.get_experiment_by_name("charlm")
    assert experiment is not None
    return list(store.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def trained(project: Path) -> int:
    """How many runs have ended, in a store that need not be there yet."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(project / "mlflow.db")) as store:
        return int(store.execute("SELECT count(end_time) FROM runs").fetchone()[0])
    return 0


def artifacts(run: MlflowRun) -> dict[str, bytes]:
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def is_complete(project: Path, run: MlflowRun) -> bool:
    """Whether the run holds all that the record gives it; what only a live training knows is not asked for."""
    figures = {f"{name}/{split}" for name in ("bits_per_char", "perplexity", "loss") for split in ("train", "test")}
    [model] = client(project).search_logged_models(["1"], f"source_run_id = '{run.info.run_id}'")
    references = {f"reference/{name}" for name in ("uniform", "unigram", "bigram_counts", "bigram_floor", "kneser_ney")}
    return (
        run.info.status == "FINISHED"
        and artifacts(run).keys() == ARTIFACTS
        and figures | references | {"loss/batch"} <= run.data.metrics.keys()
        and run.data.params.keys() == flatten(load_params(project / "params.yaml")).keys()
        and len(run.inputs.dataset_inputs) == 2
        and "nats per character" in run.data.tags["mlflow.note.content"]
        and (model.name, model.status) == ("charlm", "READY")
        and {metric.key: metric.value for metric in model.metrics}
        == {key: run.data.metrics[key] for key in figures | references}
    )


def data(project: Path) -> dict[str, bytes]:
    """Every file below data/."""
    return {str(path.relative_to(project)): path.read_bytes() for path in (project / "data").rglob("*.*")}


def ran(output: str) -> list[str]:
    """The stages that DVC ran, in order, from what it printed."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def test_first_run_is_recorded_whole(finished_project: Path) -> None:
    [run] = runs(finished_project)
    assert is_complete(finished_project, run)
    assert (run.info.run_name, run.data.tags["charlm.text"]) == ("bigram on tale", "tale")
    assert run.data.tags["charlm.origin"] == "trained"
    assert run.data.tags["charlm.git_dirty"] == "false"
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    assert {"speed/tokens_per_second", "time/seconds", "system/cpu_utilization_percentage"} <= run.data.metrics.keys()
    held = artifacts(run)
    assert held["checkpoint/model.safetensors"] == (finished_project / "data/train/model.safetensors").read_bytes()
    assert held["params.yaml"] == (finished_project / "params.yaml").read_bytes()
    points = from_csv((finished_project / "data/train/history.csv").read_text())
    assert [point.step for point in points] == list(range(0, 1001, 100))
    for key, field in {"loss/train": "train_loss", "loss/test": "test_loss", "loss/batch": "batch_loss"}.items():
        history = client(finished_project).get_metric_history(run.info.run_id, key)
        course = {metric.step: metric.value for metric in history}
        expected = {point.step: getattr(point, field) for point in points}
        assert course == {step: value for step, value in expected.items() if value is not None}
    metrics = json.loads((finished_project / "data/evaluate/metrics.json").read_text())
    for split in ("train", "test"):
        for name, value in metrics[split].items():
            assert run.data.metrics[f"{name}/{split}"] == value
    for name, value in metrics["reference"].items():
        assert run.data.metrics[f"reference/{name}"] == value
    params = load_params(finished_project / "params.yaml")
    values = flatten(params)
    shown = {"data.sha256": "null", "data.encoding": "null", "train.grad_clip": "null", "sample.prompt": '"\\n"'}
    assert run.data.params == {key: shown.get(key, str(value)) for key, value in values.items()}
    [train, test] = [entry.dataset for entry in run.inputs.dataset_inputs]
    assert (train.name, test.name, train.source) == ("tale train", "tale test", '{"uri": "tests/tale.txt"}')
    assert train.digest == sha256(finished_project / "data/prepare/train.npy")[:36]
    assert test.digest == sha256(finished_project / "data/prepare/test.npy")[:36]
    experiment = client(finished_project).get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_second_repro_runs_nothing(finished_project: Path, run: Run) -> None:
    assert "Data and pipelines are up to date." in run(finished_project, "dvc", "repro").stdout


def test_record_changes_nothing_in_a_complete_run_and_completes_one_that_was_cut_short(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def content() -> str:
        runs_held = [(held.to_dictionary(), artifacts(held)) for held in runs(project)]
        return str([*runs_held, client(project).get_metric_history(runs(project)[0].info.run_id, "loss/test")])

    run_record(project)
    before = content()
    with monkeypatch.context() as patch:
        patch.delattr(MlflowClient, "download_artifacts")  # it used to fetch every file again
        run_record(project)
    assert content() == before

    [complete] = runs(project)
    root = Path(complete.info.artifact_uri.removeprefix("file://"))
    shutil.rmtree(root / "figures")
    (root / "checkpoint/model.safetensors").write_bytes(b"half of")
    sample = (root / "samples/trained.txt").read_bytes()
    (root / "samples/trained.txt").write_bytes(sample[::-1])
    client(project).log_metric(complete.info.run_id, "perplexity/test", 1.0, step=1000)
    client(project).set_terminated(complete.info.run_id, "RUNNING")
    run_record(project)
    [again] = runs(project)
    assert is_complete(project, again)
    assert artifacts(again)["checkpoint/model.safetensors"] == data(project)["data/train/model.safetensors"]
    assert artifacts(again)["samples/trained.txt"] == sample
    assert again.data.metrics == complete.data.metrics


def test_outputs_that_are_links_to_a_read_only_cache_are_recorded_as_files(project: Path, run: Run) -> None:
    """With `cache.type symlink` the record failed each time: MLflow copied the links."""
    run(project, "dvc", "config", "--local", "cache.type", "symlink")
    run(project, "dvc", "checkout", "--relink")
    linked = [path for path in (project / "data").rglob("*") if path.is_symlink()]
    assert project / "data/train/model.safetensors" in linked
    run_record(project)
    [held] = runs(project)
    assert is_complete(project, held)
    [model] = client(project).search_logged_models(["1"])
    for folder in (held.info.artifact_uri, model.artifact_location):
        for path in Path(folder.removeprefix("file://")).rglob("*"):
            assert not path.is_symlink()
            assert path.stat().st_mode & stat.S_IWUSR


def test_record_that_fails_keeps_the_experiment_of_a_temporary_folder_and_fails_in_the_workspace(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experiment was lost with the folder when the server went away before record."""
    temporary = project / ".dvc/tmp/exps/tmp1"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    run(project, "git", "clone", "--quiet", str(project), str(temporary))
    shutil.copytree(project / "data", temporary / "data", dirs_exist_ok=True)
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for folder, code in {temporary: 0, project: 1}.items():
        written = folder / "data/record/checkpoint.sha256"
        written.unlink(missing_ok=True)
        output = run_record(folder, code)
        assert "MLflow cannot use its store http://127.0.0.1:9: " in output
        assert ("`charlm sync` does it later." in output) == (code == 0)
        assert written.is_file() == (code == 0)


def test_checkpoint_that_dvc_restored_damaged_is_not_recorded_and_its_place_in_the_cache_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that had changed in the cache was restored and recorded with the figures of the intact weights."""
    checkpoint = project / "data/train/model.safetensors"
    digest = md5(checkpoint)
    damaged = bytearray(checkpoint.read_bytes())
    damaged[-1] ^= 1
    checkpoint.unlink()  # it may be a link
    checkpoint.write_bytes(damaged)
    monkeypatch.setenv("DVC_STAGE", "record")
    output = run_record(project, code=1)
    assert "data/train/model.safetensors is not the file that dvc.lock has." in output
    cached = project / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    assert f"a damaged file in its cache, {cached}." in output
    assert client(project).get_experiment_by_name("charlm") is None


@pytest.mark.long
def test_every_result_keeps_its_run_and_earlier_params_restore_it_without_training(project: Path, run: Run) -> None:
    """The store was lost, then the data: what is not trained again is recorded as restored, beside the others."""
    before = data(project)
    sampled = run(project, "dvc", "exp", "run", "--name", "cool", "-S", "sample.temperature=0.5").stdout
    assert ran(sampled) == ["sample", "record"]
    run(project, "git", "checkout", "--quiet", "params.yaml")
    run(project, "dvc", "exp", "run", "--name", "fast", "-S", "train.learning_rate=0.01")
    run(project, "git", "checkout", "--quiet", "params.yaml")
    shutil.rmtree(project / "data")
    assert ran(run(project, "dvc", "repro").stdout) == ["record"]
    assert data(project) == before
    assert run(project, "git", "status", "--porcelain").stdout == ""
    cool, fast, first = runs(project)
    assert [is_complete(project, found) for found in (cool, fast, first)] == [True] * 3
    assert [found.data.tags["charlm.origin"] for found in (cool, fast, first)] == ["restored", "trained", "restored"]
    assert [found.data.params["train.learning_rate"] for found in (cool, fast, first)] == ["0.0003", "0.01", "0.0003"]
    assert [found.data.params["sample.temperature"] for found in (cool, fast, first)] == ["0.5", "1.0", "1.0"]
    assert fast.info.run_name == fast.data.tags["charlm.dvc_experiment"] == "fast"
    assert (first.info.run_name, first.data.tags["charlm.text"]) == ("bigram on tale", "tale")
    assert cool.data.tags["charlm.checkpoint_sha256"] == first.data.tags["charlm.checkpoint_sha256"]
    assert artifacts(cool)["samples/trained.txt"] != artifacts(first)["samples/trained.txt"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_queue_leaves_every_run_in_the_one_store(project: Path, run: Run) -> None:
    """Three rates, one of them too much: DVC's own table does not say why an experiment failed."""
    (project / "mlflow.db").unlink()  # two workers then make its tables at once
    rates = ["0.1", "0.2", "1e+300"]
    run(project, "dvc", "exp", "run", "--queue", "--name", "rates", "-S", f"train.learning_rate={','.join(rates)}")
    run(project, "dvc", "queue", "start", "--jobs", "2")
    while trained(project) < len(rates):
        time.sleep(0.5)
    while re.search(r"Queued|Running", status := run(project, "dvc", "queue", "status").stdout):
        time.sleep(2)  # to ask takes a core a second
    assert (status.count("Success"), status.count("Failed")) == (2, 1), status
    held = {found.info.run_name: found for found in runs(project)}
    assert {name: found.data.params["train.learning_rate"] for name, found in held.items()} == {
        f"rates-{number}": rate for number, rate in enumerate(rates, start=1)
    }
    assert {name: found.data.tags["charlm.dvc_experiment"] for name, found in held.items()} == {n: n for n in held}
    assert {found.data.tags["charlm.origin"] for found in held.values()} == {"trained"}
    for found in held.values():
        if found.data.params["train.learning_rate"] == "1e+300":
            assert found.info.status == "FAILED"
            assert "learning_rate" in found.data.tags["mlflow.note.content"]
            assert b"Traceback" in artifacts(found)["log.txt"]
        else:
            assert is_complete(project, found)

    page = (project / "docs/dvc-and-mlflow.md").read_text()
    [show] = re.findall(r"^(dvc exp show .*?)^```", page.replace("\\\n", ""), re.MULTILINE | re.DOTALL)
    table = run(project, *shlex.split(show)).stdout
    assert "[rates-1]" in table
    assert max(map(len, table.splitlines())) <= 80
    assert "1000/1000" in run(project, "dvc", "queue", "logs", "--follow", "rates-1").stdout
    assert "test.loss" in run(project, "dvc", "metrics", "diff", "HEAD", "rates-1").stdout
    assert "train.learning_rate" in run(project, "dvc", "params", "diff", "HEAD", "rates-1").stdout
    drawn = json.loads(run(project, "dvc", "plots", "diff", "--json", "HEAD", "rates-1").stdout)["data"]["loss"]
    assert {point["rev"] for plot in drawn for point in plot["content"]["data"]["values"]} == {"HEAD", "rates-1"}
    run(project, "dvc", "exp", "apply", "rates-1")
    assert load_params(project / "params.yaml").train.learning_rate == 0.1


def test_results_travel_through_a_remote_and_are_recorded_where_they_arrive(
    project: Path, run: Run, tmp_path: Path
) -> None:
    run(project, "dvc", "remote", "add", "--default", "local", str(tmp_path / "remote"))
    run(project, "git", "commit", "--quiet", "--all", "--message=A remote")
    run(project, "dvc", "push", "--run-cache")
    other = tmp_path / "other"
    run(tmp_path, "git", "clone", "--quiet", str(project), str(other))
    assert "up to date" in run(other, "dvc", "repro", "--allow-missing", "--dry").stdout
    run(other, "dvc", "pull", "--run-cache")
    # With --pull DVC runs no stage that only lacks its output, as record does here: README.md says so.
    assert ran(run(other, "dvc", "repro", "--pull").stdout) == []
    assert ran(run(other, "dvc", "repro").stdout) == ["record"]
    assert data(other) == data(project)
    [restored] = runs(other)
    assert is_complete(other, restored)


def test_mistakes_in_params_are_told_in_one_message_without_a_traceback_or_a_password(project: Path, run: Run) -> None:
    source = "data.source=http://ann:s3cret@127.0.0.1:9/a.txt"
    mistakes = ("+train.learning_rat=0.1", "train.batch_size=four", "data.train_fraction=2", source)
    arguments = [word for mistake in mistakes for word in ("-S", mistake)]
    done = run(project, "dvc", "exp", "run", *arguments, code=255)
    assert (
        "Error: params.yaml has 4 problems:\n"
        "  data.source: found an address with a password (http://127.0.0.1:9/a.txt), expected one without; credentials "
        "belong in ~/.netrc or in CHARLM_AUTHORIZATION (docs/how-it-works.md, Credentials)\n"
        "  data.train_fraction: found 2, expected less than 1\n"
        "  train.batch_size: found 'four', expected integer\n"
        "  train.learning_rat: unknown key; did you mean learning_rate?\n"
        "Fix the file, then run again.\n"
        "params.yaml stays edited, also what -S wrote into it. To undo that: "
        "git checkout params.yaml && dvc repro\n"
    ) in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert client(project).get_experiment_by_name("charlm") is None  # no run is opened before training


def test_without_a_network_the_download_tells_the_way_out_which_works(project: Path, run: Run) -> None:
    nowhere = "http://127.0.0.1:9"
    arguments = ("-S", "data.source=https://www.gutenberg.org/ebooks/22566")
    done = run(project, "dvc", "exp", "run", *arguments, code=255, HTTP_PROXY=nowhere, HTTPS_PROXY=nowhere, NO_PROXY="")
    assert "www.gutenberg.org/cache/epub/22566/pg22566.txt: no connection" in done.stderr
    assert "gutenberg.pglaf.org/cache/epub/22566/pg22566.txt: no connection" in done.stderr
    way_out = "dvc exp run -S data.source=tests/tale.txt -S data.sha256=null"
    assert way_out in done.stderr
    assert "Traceback" not in done.stderr
    run(project, *way_out.split(), HTTP_PROXY=nowhere, HTTPS_PROXY=nowhere)


def test_plots_draw_the_loss_and_the_next_characters(finished_project: Path, run: Run) -> None:
    plots = json.loads(run(finished_project, "dvc", "plots", "show", "--json").stdout)["data"]
    assert plots.keys() == {"loss", "context", "data/evaluate/next_char.csv"}
    [matrix] = plots["data/evaluate/next_char.csv"]
    drawn = matrix["content"]
    assert drawn["spec"]["mark"] == "rect"
    assert [drawn["spec"]["encoding"][axis]["field"] for axis in "xy"] == ["next_char", "char"]
    assert len(drawn["data"]["values"]) == 73**2
    [loss] = plots["loss"]
    assert [int(point["step"]) for point in loss["content"]["data"]["values"]].count(1000) == 2


def test_page_of_plots_says_what_it_lacks_without_internet(finished_project: Path, run: Run, tmp_path: Path) -> None:
    """It used to be blank. DVC fills in .dvc/page.html."""
    run(finished_project, "dvc", "plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    assert page.index("cdn.jsdelivr.net/npm/vega") < page.index("window.vegaEmbed ??=") < page.index("vegaEmbed('#")
    assert 'id="offline" hidden' in page


def test_a_run_adds_nothing_to_the_project_but_data_the_store_and_the_cache(finished_project: Path, run: Run) -> None:
    ignored = run(finished_project, "git", "status", "--porcelain", "--ignored").stdout.splitlines()
    places = {line.removeprefix("!! ").split("/")[0] for line in ignored if "__pycache__" not in line}
    assert places == {".dvc", "data", "mlartifacts", "mlflow.db", "mlflow.db.lock"}
    assert os.fspath(finished_project) in runs(finished_project)[0].info.artifact_uri
