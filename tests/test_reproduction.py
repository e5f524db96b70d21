"""A recorded result comes out again from its record, and what would make it differ is caught."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from charlm.cli import main

PROJECT = Path(__file__).resolve().parent.parent
EXACT = re.compile(r"^Run \S+ reproduced exactly: 1 time, last ", re.MULTILINE)
Run = Callable[..., Any]


def client(project: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def latest(project: Path) -> Any:
    return client(project).search_runs(["1"], order_by=["attributes.start_time DESC"])[0]


def state(project: Path, run: Run) -> dict[str, Any]:
    """All that a reproduction must leave as it was: the tree, the lock, the data, DVC's cache, git's worktrees."""
    files = [path for path in [*(project / "data").rglob("*"), *(project / ".dvc/cache").rglob("*")] if path.is_file()]
    return {str(path): path.read_bytes() for path in [*files, project / "dvc.lock", project / "params.yaml"]} | {
        "git": run(project, "git", "status", "--porcelain").stdout + run(project, "git", "worktree", "list").stdout
    }


def reproduce(project: Path, run: Run, reference: str, *options: str, code: int = 0, **environment: str) -> Any:
    command = (sys.executable, "-m", "charlm.cli", "reproduce", reference, *options)
    return run(project, *command, code=code, **environment)


@pytest.fixture
def recorded(project: Path, finished_project: Path) -> Path:
    """The project with the record of its first, clean run."""
    shutil.copy(finished_project / "mlflow.db", project / "mlflow.db")
    with closing(sqlite3.connect(project / "mlflow.db")) as store, store:
        store.execute("UPDATE experiments SET artifact_location = ?", [(project / "mlartifacts").as_uri()])
    return project


def test_clean_run_of_two_commits_ago_comes_out_again_and_nothing_here_changes(recorded: Path, run: Run) -> None:
    for text in ("raise SystemExit('not this code')\n", "raise SystemExit('nor this')\n"):
        (recorded / "charlm/training.py").write_text(text)
        run(recorded, "git", "commit", "--quiet", "--all", "--message=Another training")
    before, wanted = state(recorded, run), latest(recorded)
    # As git sets it for a hook or an alias: git in the temporary clone would then move the HEAD of this one.
    done = reproduce(recorded, run, wanted.info.run_id[:8], GIT_DIR=str(recorded / ".git"))
    assert EXACT.search(done.stdout)
    assert done.stdout.count("same") == 10
    assert state(recorded, run) == before
    assert latest(recorded).data.tags["charlm.reproduced"].startswith("1 time, last ")


def test_dirty_experiment_in_a_temporary_folder_comes_out_again_from_its_patch(project: Path, run: Run) -> None:
    edit(project / "charlm/training.py", "beta1=0.9,", "beta1=beta.BETA1,")
    edit(project / "charlm/training.py", "import math\n", "import math\n\nfrom charlm import beta\n")
    (project / "charlm/beta.py").write_text("BETA1 = 0.85\n")
    run(project, "git", "add", "--intent-to-add", "charlm/beta.py")
    run(project, "dvc", "exp", "run", "--temp", "--name", "apart", "-S", "train.learning_rate=0.02")
    made = latest(project)
    assert made.data.params["train.learning_rate"] == "0.02"
    assert made.data.tags["charlm.git_dirty"] == "true"
    run(project, "git", "rm", "--quiet", "--force", "--cached", "charlm/beta.py")
    (project / "charlm/beta.py").unlink()
    run(project, "git", "checkout", "--quiet", ".")
    assert EXACT.search(reproduce(project, run, "apart").stdout)


def test_restored_run_whose_book_has_vanished_comes_out_again(
    project: Path, empty_store: Path, run: Run, tmp_path: Path
) -> None:
    book = tmp_path / "a book.txt"
    book.write_text("Once upon a time there was a short text.\n" * 20)
    run(project, "dvc", "exp", "run", "-S", f"data.source={book}")
    shutil.copy(empty_store, project / "mlflow.db")
    run(project, "dvc", "repro", "--force", "--single-item", "record")
    book.unlink()
    assert latest(project).data.tags["charlm.origin"] == "restored"
    assert EXACT.search(reproduce(project, run, "latest").stdout)


@pytest.fixture
def charlm(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(recorded)
    return lambda *arguments: CliRunner().invoke(main, arguments, prog_name="charlm")


def other_run(project: Path, run_name: str, **tags: str) -> str:
    """A run in the project's store that charlm did not make, with the given tags."""
    tags = {key.replace("__", "."): value for key, value in tags.items()}
    return str(client(project).create_run("1", run_name=run_name, tags=tags).info.run_id)


def test_what_cannot_be_tried_is_refused(recorded: Path, charlm: Callable[..., Result]) -> None:
    store, good = client(recorded), latest(recorded)
    failed = other_run(recorded, "failed", mlflow__source__git__commit="0" * 40)
    store.set_terminated(failed, "FAILED")
    foreign = other_run(recorded, "foreign")
    store.set_terminated(foreign)
    gone = other_run(recorded, "gone", mlflow__source__git__commit="1" * 40, charlm__checkpoint_sha256="2")
    for name in ("environment.json", "patch.diff", "params.yaml", "dvc.lock"):
        store.log_text(gone, store_text(good, name), name)
    store.set_terminated(gone)
    store.set_terminated(other_run(recorded, "outside", charlm__checkpoint_sha256="5"))
    other_run(recorded, "twin")
    other_run(recorded, "twin")
    store.set_terminated(
        other_run(recorded, "empty", mlflow__source__git__commit="1" * 40, charlm__checkpoint_sha256="6")
    )
    expected = {
        "empty": "Run empty holds no patch.diff: its record is not complete",
        "nosuchrun": "nosuchrun: no such run in sqlite:///",
        "twin": "twin: 2 runs are meant: ",
        "": ": 8 runs are meant: ",
        "failed": f"failed: run {failed} is FAILED",
        "foreign": "foreign: it is not a run of charlm's",
        "outside": "outside: it was made outside git",
        "gone": f"Commit {'1' * 40} is not in this repository.\nFetch it (git fetch --all)",
    }
    for reference, message in expected.items():
        result = charlm("reproduce", reference)
        assert result.exit_code == 2, result.output
        assert f"Error: {message}" in result.output


def test_store_that_does_not_answer_is_not_a_difference(recorded: Path, run: Run) -> None:
    told = reproduce(recorded, run, "latest", code=2, MLFLOW_TRACKING_URI="http://127.0.0.1:9").stderr
    assert "Error: MLflow cannot use its store http://127.0.0.1:9: " in told


def store_text(run: Any, name: str) -> str:
    return (Path(run.info.artifact_uri.removeprefix("file://")) / name).read_text()


def test_other_packages_are_named_anyway_goes_on_and_an_interrupt_leaves_nothing_behind(
    recorded: Path, run: Run, tmp_path: Path
) -> None:
    good = latest(recorded)
    made = json.loads(store_text(good, "environment.json"))
    made["packages"] |= {"torch": "2.12.0", "not-here": "1.0"}
    commit = good.data.tags["mlflow.source.git.commit"]
    other = other_run(recorded, "older", mlflow__source__git__commit=commit, charlm__checkpoint_sha256="3")
    client(recorded).log_text(other, json.dumps(made), "environment.json")
    for name in ("patch.diff", "params.yaml", "dvc.lock"):
        client(recorded).log_text(other, store_text(good, name), name)
    client(recorded).set_terminated(other)
    told = reproduce(recorded, run, "older", code=2).stderr
    assert "\n  not-here: 1.0 on record, not installed here\n  torch: 2.12.0 on record, 2.13.0" in told

    before, places = state(recorded, run), tmp_path / "places"
    places.mkdir()
    command = [sys.executable, "-m", "charlm.cli", "reproduce", "older", "--anyway"]
    settings = os.environ | {"TMPDIR": str(places)}
    with subprocess.Popen(
        command, cwd=recorded, env=settings, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert any("Running stage 'train'" in line for line in process.stderr)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()
    assert process.returncode in (1, 2)
    assert list(places.glob("charlm*")) == []
    assert state(recorded, run) == before


def test_result_that_differs_is_told_by_file_stage_and_first_weight(recorded: Path, run: Run) -> None:
    good, store = latest(recorded), client(recorded)
    commit = good.data.tags["mlflow.source.git.commit"]
    other = other_run(recorded, "liar", mlflow__source__git__commit=commit, charlm__checkpoint_sha256="4")
    for name in ("environment.json", "patch.diff", "dvc.lock"):
        store.log_text(other, store_text(good, name), name)
    store.log_text(other, store_text(good, "params.yaml").replace("decay: 0.01", "decay: 0.9"), "params.yaml")
    store.log_artifact(other, str(recorded / "data/train/model.safetensors"), "checkpoint")
    store.set_terminated(other)
    told = reproduce(recorded, run, "liar", code=1)
    assert "Not reproduced: data/train/history.csv of stage train is the first file that differs." in told.stderr
    number = r"First difference, token_embedding_table\.weight\[0, 0\]: -?[0-9.e-]+ on record, -?[0-9.e-]+ now\."
    assert re.search(number, told.stderr)
    assert "DIFFERENT" in told.stdout
    assert "charlm.reproduced" not in store.get_run(other).data.tags


def verify(project: Path, run: Run, *, code: int = 1) -> str:
    """What `make verify` tells of what is committed in `project`."""
    run(project, "git", "commit", "--quiet", "--all", "--message=A change")
    return str(run(project, sys.executable, "-m", "charlm.provenance.reproduction", code=code).stderr)


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "file", "stage"),
    [
        ("params.yaml", "seed: 1337", "seed: 1338", "data/train/history.csv", "train"),
        ("tests/tale.txt", "forty-one years", "forty-two years", "data/download/book.txt", "download"),
        (
            "charlm/checkpoint.py",
            "temporary.write_bytes(save(weights, ",
            "next(iter(weights.values())).view(torch.int32)[0, 0] ^= 1\n        temporary.write_bytes(save(weights, ",
            "data/train/model.safetensors",
            "train",
        ),
    ],
    ids=["a seed", "a character of the book", "a bit of the checkpoint"],
)
def test_what_changes_a_result_is_caught_in_its_stage(
    project: Path, run: Run, name: str, old: str, new: str, file: str, stage: str
) -> None:
    edit(project / name, old, new)
    told = verify(project, run)
    assert f"Not reproduced: {file} of stage {stage} is the first file that differs." in told
    assert "What differs about this machine:" in told


def test_lock_of_other_code_is_told_although_the_result_is_the_same(project: Path, run: Run) -> None:
    edit(project / "charlm/sampling.py", '"""Text from a model', '"""Text, from a model')
    told = verify(project, run)
    assert "dvc.lock is not what the committed code writes" in told
    assert "docs/reproducibility.md has " in told  # the tale's digests are not the book's
