"""`charlm sync` and `charlm promote`: from what DVC has to runs, from runs to the champion."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from ruamel.yaml import YAML

from tests.conftest import with_store
from tests.trainings import charlm

Run = Callable[..., Any]


def client(project: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def runs(project: Path) -> dict[str, MlflowRun]:
    """All runs in the project's store, by name."""
    return {run.info.run_name: run for run in client(project).search_runs(["1"])}


@pytest.fixture(scope="session")
def two_results(finished_project: Path, empty_store: Path, once: Callable[..., Path], run: Run) -> Path:
    """A project with a committed result and a better experiment in DVC's cache, and an empty store. To be copied."""

    def fill(folder: Path) -> None:
        shutil.copytree(finished_project, folder, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
        better = ("-S", "train.learning_rate=0.1", "-S", "sample.max_new_tokens=50")
        run(folder, "dvc", "exp", "run", "--name", "better-1", *better, CHARLM_TRACKING="off")
        run(folder, "git", "checkout", "--quiet", ".")
        shutil.copy(empty_store, folder / "mlflow.db")

    return once("results", fill)


@pytest.fixture(scope="session")
def both_synced(two_results: Path, once: Callable[..., Path]) -> Path:
    """The same after a `charlm sync`."""

    def fill(folder: Path) -> None:
        shutil.copytree(two_results, folder)
        output = charlm(folder, "sync")
        assert output.count("recorded as run") == 2, output

    return once("synced", fill)


@pytest.fixture
def synced(both_synced: Path, tmp_path: Path) -> Path:
    """A copy of it, whose runs keep their artifacts there."""
    folder = tmp_path / "synced"
    shutil.copytree(both_synced, folder, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
    return with_store(folder, both_synced)


def test_sync_makes_a_run_of_every_result_once(synced: Path, run: Run) -> None:
    recorded = runs(synced)
    committed = next(run for name, run in recorded.items() if name != "better-1")
    assert {name: run.data.params["train.learning_rate"] for name, run in recorded.items()} == {
        "better-1": "0.1",
        committed.info.run_name: "0.0003",
    }
    for each in recorded.values():
        assert (each.info.status, each.data.tags["charlm.origin"]) == ("FINISHED", "restored")
        assert each.data.tags["charlm.git_dirty"] == "false"
        samples = client(synced).list_artifacts(each.info.run_id, "samples")
        assert [entry.path for entry in samples] == ["samples/trained.txt", "samples/untrained.txt"]
    assert recorded["better-1"].data.tags["charlm.dvc_experiment"] == "better-1"
    head = run(synced, "git", "rev-parse", "HEAD").stdout.strip()
    assert committed.data.tags["mlflow.source.git.commit"] == head
    assert recorded["better-1"].data.tags["mlflow.source.git.commit"] != head

    output = charlm(synced, "sync")
    assert output.count("is recorded already") == 2
    assert {name: run.to_dictionary() for name, run in runs(synced).items()} == {
        name: run.to_dictionary() for name, run in recorded.items()
    }
    assert run(synced, "git", "status", "--porcelain").stdout == ""


def test_project_in_a_subfolder_is_synced_and_one_that_never_ran_is_told_so(
    two_results: Path, tmp_path: Path, run: Run
) -> None:
    """`sync` used to do nothing and say nothing; the store was in the repository's folder, the project's empty."""
    project = tmp_path / "ml/charlm"
    shutil.copytree(two_results, project, ignore=shutil.ignore_patterns(".git"))
    (project / ".dvc").rename(tmp_path / ".dvc")
    lock = (project / "dvc.lock").rename(tmp_path / "lock")
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "git", "add", "--all", "--", ".dvc", "ml")
    run(tmp_path, "git", "commit", "--quiet", "--message=Everything")
    nothing = f"No experiment and no commit here has a dvc.lock in {project}: there is nothing to record.\n"
    assert charlm(project, "sync").endswith(nothing)
    lock.rename(project / "dvc.lock")
    run(project, "git", "add", "dvc.lock")
    run(project, "git", "commit", "--quiet", "--message=The result")
    assert charlm(project, "sync").count("recorded as run") == 1
    assert len(runs(project)) == 1


def test_a_state_that_git_cannot_read_is_left_out_and_the_others_are_recorded(
    two_results: Path, tmp_path: Path, run: Run
) -> None:
    """The first one used to end `sync`, one with a traceback, and nothing was recorded."""
    source, project = tmp_path / "source", tmp_path / "project"
    shutil.copytree(two_results, source)
    run(source, "git", "config", "uploadpack.allowFilter", "true")
    (source / "README.md").write_text("Another\n")
    run(source, "git", "commit", "--quiet", "--all", "--message=After the result")
    run(tmp_path, "git", "clone", "--quiet", "--filter=blob:none", f"file://{source}", str(project))
    run(project, "git", "fetch", "--quiet", "origin", "refs/exps/*:refs/exps/*")
    (source / ".dvc/cache").rename(project / ".dvc/cache")
    shutil.copy(source / "mlflow.db", project)
    source.rename(tmp_path / "away")
    output = charlm(project, "sync")
    assert output.count("left out, `git ") == output.count("from promisor remote") == 2
    (tmp_path / "away").rename(source)
    assert charlm(project, "sync").count("recorded as run") == 2


def test_experiments_of_a_shallow_clone_are_read(two_results: Path, tmp_path: Path, run: Run) -> None:
    """Git's own error stood in their place: it shares no objects of a shallow repository, and clones its branches."""
    project = tmp_path / "project"
    run(tmp_path, "git", "clone", "--quiet", "--depth=1", f"file://{two_results}", str(project))
    run(project, "git", "fetch", "--quiet", "--depth=1", "origin", "refs/exps/*:refs/exps/*")
    shutil.copy(two_results / "mlflow.db", project)
    output = charlm(project, "sync")
    assert "better-1: left out, data/download/book.txt, " in output
    assert output.count("not in DVC's cache") == 2, output


def test_results_that_are_incomplete_are_left_out_with_the_reason(two_results: Path, tmp_path: Path, run: Run) -> None:
    project = tmp_path / "project"
    shutil.copytree(two_results, project)
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("1337", "1338"))
    run(project, "git", "commit", "--quiet", "--all", "--message=Not run yet")
    (project / "dvc.lock").write_text((project / "dvc.lock").read_text() + "\n")
    run(project, "git", "commit", "--quiet", "--all", "--message=A lock of other parameters")
    lost = run(project, "md5sum", "data/train/history.csv").stdout[:32]
    (project / ".dvc/cache/files/md5" / lost[:2] / lost[2:]).unlink()
    lock = YAML().load((project / "dvc.lock").read_text())
    del lock["stages"]["sample"], lock["stages"]["evaluate"]
    YAML().dump(lock, project / "dvc.lock")
    run(project, "git", "commit", "--quiet", "--all", "--message=A run that was cut short")
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    run(project, "git", "commit", "--quiet", "--all", "--message=No run")
    output = charlm(project, "sync")
    assert "left out, dvc.lock has no result of evaluate, sample" in output
    assert "left out, dvc.lock has no result of download, prepare, train, evaluate, sample" in output
    assert "better-1: left out, data/train/history.csv: not in DVC's cache (dvc fetch --all-commits" in output
    assert "left out, dvc.lock has the result of other parameters than those in params.yaml" in output
    assert [run.data.params["train.learning_rate"] for run in runs(project).values()] == ["0.0003"]


def test_deleted_run_stays_deleted_and_its_restoration_is_offered(synced: Path) -> None:
    """It came back by the next sync."""
    deleted = runs(synced)["better-1"].info.run_id
    client(synced).delete_run(deleted)
    output = charlm(synced, "sync")
    assert (
        f"better-1: left out, its run {deleted} was deleted; `mlflow runs restore --run-id {deleted}` restores it"
        in output
    )
    assert output.count("is recorded already") == 1
    client(synced).restore_run(deleted)
    assert charlm(synced, "sync").count("is recorded already") == 2


def test_experiment_that_was_recorded_without_its_name_is_found_by_it(synced: Path) -> None:
    """After `dvc exp apply better-1 && dvc repro` sync called it recorded, and nothing had the name."""
    run_id = runs(synced)["better-1"].info.run_id
    client(synced).delete_tag(run_id, "charlm.dvc_experiment")
    client(synced).update_run(run_id, name="polite-owl-7")
    assert f"better-1: recorded as run {run_id}" in charlm(synced, "sync")
    assert runs(synced)["polite-owl-7"].data.tags["charlm.dvc_experiment"] == "better-1"
    assert f"({run_id[:12]})" in charlm(synced, "promote", "better-1")
    assert charlm(synced, "sync").count("is recorded already") == 2


def test_promote_makes_the_better_run_the_champion_and_keeps_it(synced: Path) -> None:
    recorded = runs(synced)
    worse = next(run for name, run in recorded.items() if name != "better-1")

    def champion() -> tuple[str, str | None]:
        version = client(synced).get_model_version_by_alias("charlm", "champion")
        return str(version.version), version.run_id

    output = charlm(synced, "promote", worse.info.run_id[:8])
    assert output.endswith("is version 1 of the model charlm and now the champion: models:/charlm@champion\n")
    assert champion() == ("1", worse.info.run_id)
    assert "is version 2 of the model charlm and now the champion" in charlm(synced, "promote")
    assert champion() == ("2", recorded["better-1"].info.run_id)
    for arguments in ([], ["better-1"], ["better-1", "--force"]):
        assert "is version 2 of the model charlm and the champion already." in charlm(synced, "promote", *arguments)
    refused = charlm(synced, "promote", worse.info.run_id, code=1)
    better = recorded["better-1"].info.run_id
    assert refused.startswith(f"Error: The champion stays version 2 of charlm (run {better[:12]}, test loss ")
    assert "--force moves the alias anyway." in refused
    assert champion() == ("2", recorded["better-1"].info.run_id)
    charlm(synced, "promote", worse.info.run_id, "--force")
    assert champion() == ("1", worse.info.run_id)
    versions = {str(version.version): version for version in client(synced).search_model_versions("name = 'charlm'")}
    theirs = f"{recorded['better-1'].data.metrics['loss/test']:.4f}"
    ours = f"{worse.data.metrics['loss/test']:.4f}"
    assert {number: version.description for number, version in versions.items()} == {
        "1": f"Test loss {ours}; promoted by --force over version 2 of charlm (run {better[:12]}, test loss {theirs}).",
        "2": f"Test loss {theirs}; better than version 1 of charlm (run {worse.info.run_id[:12]}, test loss {ours}) "
        "on the same text.",
    }


def test_refused_promotion_leaves_no_version(synced: Path) -> None:
    charlm(synced, "promote", "better-1")
    worse = next(run for name, run in runs(synced).items() if name != "better-1")
    charlm(synced, "promote", worse.info.run_id, code=1)
    [version] = client(synced).search_model_versions("name = 'charlm'")
    assert version.run_id == runs(synced)["better-1"].info.run_id
    assert version.description.endswith("; there was no champion.")


def purge(project: Path, run_id: str) -> None:
    """Delete a run as `mlflow gc` does."""
    client(project).delete_run(run_id)
    store = SqlAlchemyStore(f"sqlite:///{project / 'mlflow.db'}", str(project / "mlartifacts"))
    store._hard_delete_run(run_id)


@pytest.mark.parametrize("known", [True, False], ids=["figures on the version", "no figures"])
def test_champion_whose_run_is_gone_is_compared_by_its_version_or_kept_until_forced(synced: Path, known: bool) -> None:  # noqa: FBT001
    """The run deleted for good, promote failed and blamed the store."""
    recorded = runs(synced)
    worse = next(run for name, run in recorded.items() if name != "better-1")
    charlm(synced, "promote", worse.info.run_id)
    if not known:
        for tag in ("loss/test", "charlm.test_digest"):
            client(synced).delete_model_version_tag("charlm", "1", tag)
    purge(synced, worse.info.run_id)
    if not known:
        output = charlm(synced, "promote", code=1)
        assert "The champion stays version 1 of charlm (run " in output
        assert "its run is not in sqlite:///" in output
        assert "--force moves the alias anyway." in output
    output = charlm(synced, "promote", *([] if known else ["--force"]))
    assert "is version 2 of the model charlm and now the champion" in output


def test_alias_of_a_deleted_version_is_no_champion(synced: Path) -> None:
    charlm(synced, "promote", "better-1")
    client(synced).delete_model_version("charlm", "1")
    with closing(sqlite3.connect(synced / "mlflow.db")) as store, store:
        store.execute(
            "INSERT OR REPLACE INTO registered_model_aliases (name, alias, version) VALUES ('charlm', 'champion', 1)"
        )
    assert "is version 2 of the model charlm and now the champion" in charlm(synced, "promote", "better-1")


def test_registry_elsewhere_has_the_model_and_generates(
    synced: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, synced / "registry.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///registry.db")
    monkeypatch.chdir(synced / "docs")
    assert "is version 1 of the model charlm and now the champion" in charlm(synced, "promote")
    here, elsewhere = (f"sqlite:///{synced / name}" for name in ("mlflow.db", "registry.db"))
    assert MlflowClient(here, here).search_registered_models() == []
    champion = MlflowClient(here, elsewhere).get_model_version_by_alias("charlm", "champion")
    assert champion.run_id == runs(synced)["better-1"].info.run_id
    generate = ("generate", "--seed", "7", "--length", "20", "The ", "--model")
    expected = charlm(synced, *generate, f"runs:/{champion.run_id}").split("\n", 1)[1]  # the first line names the model
    assert charlm(synced, *generate, "models:/charlm@champion").split("\n", 1)[1] == expected
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    assert "MLflow cannot use its store http://127.0.0.1:9" in charlm(synced, "promote", code=1)


def test_run_on_another_text_is_no_better_and_no_worse(synced: Path) -> None:
    charlm(synced, "promote", "better-1")
    store = client(synced)
    other = store.create_run("1", run_name="other").info.run_id
    store.log_metric(other, "loss/test", 0.1)
    store.set_tag(other, "charlm.checkpoint_sha256", "0" * 64)
    store.set_terminated(other)
    assert "has no model or no test loss" in charlm(synced, "promote", "other", code=1)
    model = store.create_logged_model("1", "charlm", other)
    store.finalize_logged_model(model.model_id, "READY")
    assert "was measured on another text, their losses do not compare" in charlm(synced, "promote", "other", code=1)
    better = runs(synced)["better-1"].info.run_id
    assert f"(run {better[:12]}, test loss " in charlm(synced, "promote", "other", code=1)
    assert "is version 1 of the model charlm and the champion already" in charlm(synced, "promote")


def test_promote_in_an_empty_store_says_what_creates_a_run(two_results: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(two_results, project)
    output = charlm(project, "promote", code=1)
    assert output.endswith("to promote.\n`dvc repro` creates one.\n")
    assert "no such run in sqlite:///" in charlm(project, "promote", "nothing", code=1)
