"""The train stage when something goes wrong: what becomes of its run, and what it tells."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.trainings import only_run, set_train

TRAIN = ("python", "-m", "stages.train", "data/prepare", "out")


def test_diverged_training_fails_its_run_with_the_message_and_leaves_no_file(
    project: Path, run: Callable[..., Any]
) -> None:
    set_train(project, learning_rate=1e308)
    done = run(project, *TRAIN, code=1)
    assert done.stderr.endswith(
        "Error: The loss at step 2 is nan; nothing was saved.\n"
        "Most likely train.learning_rate=1e+308 is too high for float64: try a tenth of it.\n"
    )
    assert only_run(project).info.status == "FAILED"
    assert only_run(project).data.tags["mlflow.note.content"] in done.stderr
    assert list((project / "out").glob("*")) == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_training_ends_its_run_as_killed_and_leaves_no_file(project: Path, stop: signal.Signals) -> None:
    set_train(project, max_iters=10**9)
    with subprocess.Popen([sys.executable, *TRAIN[1:]], cwd=project, stderr=subprocess.PIPE, text=True) as training:
        while not _has_logged(project):
            assert training.poll() is None
            time.sleep(0.1)
        training.send_signal(stop)
        _, told = training.communicate()
    assert training.returncode == 1
    assert told.endswith("Aborted!\n")
    assert only_run(project).info.status == "KILLED"
    assert list((project / "out").glob("*")) == []


def _has_logged(project: Path) -> bool:
    """Whether the training's run is in the store with a point of its curve."""
    if not (project / "mlflow.db").exists():
        return False
    with closing(sqlite3.connect(project / "mlflow.db")) as store, suppress(sqlite3.OperationalError):
        return bool(store.execute("select count(*) from latest_metrics").fetchone()[0])
    return False


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "sqlite:////proc/nowhere/mlflow.db"])
def test_store_that_cannot_be_used_is_told_before_training(
    project: Path, run: Callable[..., Any], address: str
) -> None:
    done = run(project, *TRAIN, code=1, MLFLOW_TRACKING_URI=address)
    assert f"Error: MLflow cannot use its store {address}: " in done.stderr
    assert "CHARLM_TRACKING=off to go on without" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "out").exists()


def test_switch_that_is_neither_on_nor_off_is_refused(project: Path, run: Callable[..., Any]) -> None:
    done = run(project, *TRAIN, code=1, CHARLM_TRACKING="no")
    assert done.stderr == "Error: CHARLM_TRACKING=no: expected on or off (on is the default).\n"


def test_store_lost_in_mid_training_does_not_stop_it(project: Path, run: Callable[..., Any]) -> None:
    """Whatever the store does once training runs, the same checkpoint comes out, and the record makes up for it."""
    set_train(project, max_iters=60_000)
    with subprocess.Popen([sys.executable, *TRAIN[1:]], cwd=project, stderr=subprocess.PIPE, text=True) as training:
        while not _has_logged(project):
            assert training.poll() is None
            time.sleep(0.1)
        os.truncate(project / "mlflow.db", 0)
        _, told = training.communicate()
    assert training.returncode == 0, told
    assert "The record stage completes the run of the result." in told
    run(project, "python", "-m", "stages.train", "data/prepare", "untracked", CHARLM_TRACKING="off")
    for name in ("model.safetensors", "history.csv"):
        assert (project / "out" / name).read_bytes() == (project / "untracked" / name).read_bytes()


def test_code_edited_while_it_runs_is_not_recorded_as_what_ran(project: Path) -> None:
    """DVC digests a stage's code when the stage has ended, and would take the edited code for what made the result."""
    set_train(project, max_iters=20_000)
    with subprocess.Popen([sys.executable, *TRAIN[1:]], cwd=project, stderr=subprocess.PIPE, text=True) as training:
        while not _has_logged(project):
            assert training.poll() is None
            time.sleep(0.1)
        with (project / "charlm/training.py").open("a") as code:
            code.write("# edited\n")
        _, told = training.communicate()
    assert training.returncode == 1
    message = "charlm/training.py changed while this stage ran: its result is not what the code there now gives."
    assert f"Error: {message}\n" in told
    assert only_run(project).info.status == "FAILED"
    assert message in only_run(project).data.tags["mlflow.note.content"]
    assert "charlm.checkpoint_sha256" not in only_run(project).data.tags
