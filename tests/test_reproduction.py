"""A recorded result is reproduced from its record, and what makes it differ is caught."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from safetensors.numpy import load_file, save_file

from charlm.cli import main
from charlm.provenance import reproduction
from charlm.provenance.repository import md5
from tests.conftest import with_store
from tests.every_process import machine
from tests.trainings import run_record

PROJECT = Path(__file__).resolve().parent.parent
EXACT = re.compile(r"^Run .+ reproduced exactly: 1 time, last ", re.MULTILINE)
OTHER_MACHINE = machine("default", "COMPATIBLE", 2)
PROMISE = "train.precision=float32 promises the same bytes on one machine only; train.precision=exact promises them on"
GPT = (
    "model.name=gpt",
    "+model.gpt={n_layer: 1, n_head: 2, n_embd: 16, n_window: 2, dropout: 0.1}",
    "train.max_iters=30",
    "train.eval_iters=2",
    "sample.max_new_tokens=50",
)
Run = Callable[..., Any]


def client(project: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def latest(project: Path) -> Any:
    return client(project).search_runs(["1"], order_by=["attributes.start_time DESC"])[0]


def state(project: Path, run: Run) -> dict[str, Any]:
    """What a reproduction must not change: the tree, the lock, the data, DVC's cache, git's worktrees."""
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
    return with_store(project, finished_project)


@pytest.mark.long
def test_restored_run_of_two_commits_ago_is_reproduced_and_nothing_here_changes(project: Path, run: Run) -> None:
    run_record(project)
    wanted = latest(project)
    assert wanted.data.tags["charlm.origin"] == "restored"
    for text in ("raise SystemExit('not this code')\n", "raise SystemExit('nor this')\n"):
        (project / "charlm/training/loop.py").write_text(text)
        run(project, "git", "commit", "--quiet", "--all", "--message=Another training")
    before = state(project, run)
    # As git sets it for a hook or an alias: git in the temporary clone would then move the HEAD of this one.
    done = reproduce(project, run, wanted.info.run_id[:8], GIT_DIR=str(project / ".git"))
    assert EXACT.search(done.stdout)
    assert done.stdout.count("same") == 14
    assert state(project, run) == before
    assert latest(project).data.tags["charlm.reproduced"].startswith("1 time, last ")


@pytest.mark.long
def test_dirty_experiment_on_a_text_that_has_vanished_is_reproduced_from_its_patch_on_another_machine(
    project: Path, run: Run, tmp_path: Path
) -> None:
    """In a temporary folder, where its code is not committed either, of a repository with the project in a subfolder.

    It is a GPT in `exact`, for which neither the instruction set nor the threads matter.

    The store of such a run used to be in the repository's folder, where `charlm` did not look, and its commit could not
    be cloned.
    """
    project = into_a_subfolder(project, run)
    book = tmp_path / "a book.txt"
    book.write_text("Once upon a time there was a short text.\n" * 20)
    optimizer, own = project / "charlm/training/optimizer.py", project / "charlm/training/beta.py"
    edit(optimizer, "BETA1, EPSILON, MOMENTUM = 0.9,", "BETA1, EPSILON, MOMENTUM = beta.BETA1,")
    edit(
        optimizer,
        "from charlm.errors import CharlmError\n",
        "from charlm.errors import CharlmError\nfrom charlm.training import beta\n",
    )
    own.write_text("BETA1 = 0.85\n")
    run(project, "git", "add", "--intent-to-add", str(own))
    sets = [word for value in (*GPT, "train.learning_rate=0.02", f"data.source={book}") for word in ("-S", value)]
    # The address that README gives; it meant the temporary folder, and the run vanished with it.
    run(project, "dvc", "exp", "run", "--temp", "--name", "apart", *sets, MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    made = latest(project)
    assert made.data.params["train.learning_rate"] == "0.02"
    assert made.data.tags["charlm.git_dirty"] == "true"
    run(project, "git", "rm", "--quiet", "--force", "--cached", str(own))
    own.unlink()
    book.unlink()
    run(project, "git", "checkout", "--quiet", ".")
    assert EXACT.search(reproduce(project, run, "apart", **OTHER_MACHINE).stdout)


def into_a_subfolder(project: Path, run: Run) -> Path:
    """Put the project in a folder of a larger repository, which has what belongs to DVC."""
    top = project.parent / "repository"
    shutil.rmtree(project / ".git")
    (top / "ml").mkdir(parents=True)
    (project / ".dvc").rename(top / ".dvc")
    moved = project.rename(top / "ml/charlm")
    run(top, "git", "init", "--quiet")
    run(top, "git", "add", "--all")
    run(top, "git", "commit", "--quiet", "--message=Everything")
    return moved


@pytest.fixture
def charlm(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(recorded)
    return lambda *arguments: CliRunner().invoke(main, arguments, prog_name="charlm")


ARTIFACTS = ("environment.json", "patch.diff", "params.yaml", "dvc.lock")


def other_run(project: Path, run_name: str, status: str = "FINISHED", /, **tags: str) -> str:
    """A run in the project's store that charlm did not make, with these tags."""
    tags = {key.replace("__", "."): value for key, value in tags.items()}
    run_id = client(project).create_run("1", run_name=run_name, tags=tags).info.run_id
    client(project).set_terminated(run_id, status)
    return str(run_id)


def copy_of(run: Any, project: Path, run_name: str, commit: str | None = None, **artifacts: str) -> str:
    """A run of this name with the record of `run`, but for its `commit` and the text of some artifacts."""
    commit = commit or run.data.tags["mlflow.source.git.commit"]
    run_id = other_run(project, run_name, mlflow__source__git__commit=commit, charlm__checkpoint_sha256="2")
    for name in ARTIFACTS:
        client(project).log_text(run_id, artifacts.get(name.partition(".")[0], text_of(run, name)), name)
    return run_id


def text_of(run: Any, name: str) -> str:
    return (Path(run.info.artifact_uri.removeprefix("file://")) / name).read_text()


def test_what_cannot_be_tried_is_refused(
    recorded: Path, charlm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = latest(recorded)
    made = json.loads(text_of(good, "environment.json"))
    made["packages"] |= {"torch": "2.12.0", "not-here": "1.0"}
    failed = other_run(recorded, "failed", "FAILED", mlflow__source__git__commit="0" * 40)
    other_run(recorded, "foreign")
    other_run(recorded, "outside", charlm__checkpoint_sha256="5")
    other_run(recorded, "twin")
    other_run(recorded, "twin")
    other_run(recorded, "empty", mlflow__source__git__commit="1" * 40, charlm__checkpoint_sha256="6")
    copy_of(good, recorded, "gone", commit="1" * 40)
    copy_of(good, recorded, "older", environment=json.dumps(made))
    expected = {
        "empty": "Run empty has no patch.diff: its record is not complete",
        "nosuchrun": "nosuchrun: no such run in sqlite:///",
        "twin": "twin: it matches 2 runs: ",
        "": ": it matches 9 runs: ",
        "failed": f"failed: run {failed} is FAILED",
        "foreign": "foreign: it is not a run of charlm",
        "outside": "outside: it was made outside git",
        "gone": f"Commit {'1' * 40} is not in this repository.\nFetch it: `git fetch --all`, or `dvc exp pull origin ",
        "older": "The packages that decide a result differ from those of the run:\n  torch: 2.12.0 on record, 2.13.0",
    }
    for reference, message in expected.items():
        result = charlm("reproduce", reference)
        assert result.exit_code == 2, result.output
        assert f"Error: {message}" in result.output
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result = charlm("reproduce", "latest")
    assert result.exit_code == 2
    assert "Error: MLflow cannot use its store http://127.0.0.1:9: " in result.output


def test_other_packages_can_be_ignored_and_an_interrupt_leaves_nothing_behind(
    recorded: Path, run: Run, tmp_path: Path
) -> None:
    good = latest(recorded)
    made = json.loads(text_of(good, "environment.json"))
    made["packages"]["torch"] = "2.12.0"
    copy_of(good, recorded, "older", environment=json.dumps(made))
    before, places = state(recorded, run), tmp_path / "places"
    places.mkdir()
    command = [sys.executable, "-m", "charlm.cli", "reproduce", "older", "--ignore-packages"]
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


def test_result_that_differs_is_reported_by_file_stage_and_first_weight(recorded: Path, run: Run) -> None:
    good, store = latest(recorded), client(recorded)
    params = text_of(good, "params.yaml").replace("decay: 0.01", "decay: 0.9")
    params = params.replace("precision: exact", "precision: float32")
    other = copy_of(good, recorded, "liar", params=params)
    store.log_artifact(other, str(recorded / "data/train/model.safetensors"), "checkpoint")
    done = reproduce(recorded, run, "liar", code=1, **OTHER_MACHINE)
    assert "Not reproduced: data/train/history.csv of stage train is the first file that differs." in done.stderr
    number = r"First difference, token_embedding_table\.weight\[0, 0\]: -?[0-9.e-]+ on record, -?[0-9.e-]+ now\."
    assert re.search(number, done.stderr)
    assert "DIFFERENT" in done.stdout
    assert PROMISE in done.stderr
    assert "charlm.reproduced" not in store.get_run(other).data.tags


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_bit_of_a_weight_that_changed_is_named(project: Path, tmp_path: Path) -> None:
    """The comparison alone, with a result in which nothing else differs."""
    lock, weights = project / "dvc.lock", project / "data/train/model.safetensors"
    expected = reproduction.Record("", b"", (project / "params.yaml").read_bytes(), lock.read_bytes())
    (tmp_path / "checkpoint").mkdir()
    intact, digest = shutil.copy(weights, tmp_path / "checkpoint"), md5(weights)
    changed = load_file(intact)
    changed["token_embedding_table.weight"].view(np.int32)[3, 5] ^= 1
    save_file(changed, weights)
    edit(lock, digest, md5(weights))
    with pytest.raises(reproduction.DifferentError) as err:
        reproduction.report(expected, project, tmp_path, [], other_machine=True)
    assert "Not reproduced: data/train/model.safetensors of stage train is the first file that differs." in str(
        err.value
    )
    assert "First difference, token_embedding_table.weight[3, 5]: " in str(err.value)
    assert "promises" not in str(err.value)


def verify(project: Path, run: Run) -> str:
    """What `make verify` reports of what is committed in `project`."""
    run(project, "git", "commit", "--quiet", "--all", "--message=A change")
    return str(run(project, sys.executable, "-m", "charlm.provenance.reproduction", code=1).stderr)


def test_character_of_the_text_that_changed_is_caught_in_its_stage(project: Path, run: Run) -> None:
    edit(project / "tests/tale.txt", "forty-one years", "forty-two years")
    message = verify(project, run)
    assert "Not reproduced: data/download/book.txt of stage download is the first file that differs." in message
    assert "What differs about this machine:" in message


def test_lock_of_other_code_is_reported_although_the_result_is_the_same(project: Path, run: Run) -> None:
    edit(project / "charlm/models/sampling.py", '"""Text from a model', '"""Text, from a model')
    message = verify(project, run)
    assert "dvc.lock is not what the committed code writes" in message
    assert "docs/reproducibility.md has " in message  # the tale's digests are not the book's
