"""Stages that are ended at the worst moment, and what the next `dvc repro` makes of it."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.trainings import ARGUMENTS

# SIGINT and SIGTERM are left to Python but in train, whose own test sends them: one stage is enough for each kind.
STRUCK = {
    signal.SIGINT: ["record"],
    signal.SIGTERM: ["prepare"],
    signal.SIGKILL: ["download", "evaluate", "record"],
}
STRIKE = """
import os, pathlib, sys
def strike(*arguments):
    os.kill(os.getpid(), int(os.environ["STRIKE"]))
    signal.pause()
if "STRIKE" in os.environ and "stages." + os.environ["STRIKE_STAGE"] in sys.orig_argv:
    import signal
    if os.environ["STRIKE_STAGE"] == "record":
        import mlflow
        mlflow.MlflowClient.log_figure = strike
    else:
        pathlib.Path.replace = strike
"""
"""Ends a stage when its result is written and about to take its place; record, between two artifacts."""


@pytest.mark.long
def test_every_stage_may_be_killed_and_those_that_hear_a_signal_ended(
    project: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    def data() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in (project / "data").rglob("*") if path.is_file()}

    (tmp_path / "strike").mkdir()
    (tmp_path / "strike/sitecustomize.py").write_text(STRIKE)
    before = data()
    for stop, stages in STRUCK.items():
        for stage in stages:
            struck = {"PYTHONPATH": str(tmp_path / "strike"), "STRIKE": str(int(stop)), "STRIKE_STAGE": stage}
            ended = {signal.SIGINT: 1, signal.SIGTERM: -stop, signal.SIGKILL: -stop}
            run(project, "python", "-m", f"stages.{stage}", *ARGUMENTS[stage], code=ended[stop], **struck)
            # A killed process cannot remove what it was writing; that is hidden beside the file that stays.
            assert {path: held for path, held in data().items() if not _hidden(path)} == before
    shutil.rmtree(project / "data/train")
    run(project, "dvc", "repro", "--force", "train", code=255, **struck | {"STRIKE_STAGE": "train"})
    run(project, "dvc", "repro")
    assert {path: held for path, held in data().items() if not _hidden(path)} == before
    assert run(project, "git", "status", "--porcelain").stdout == ""
    run(project, "dvc", "repro", "--force", "--single-item", "train", "record")
    assert sorted(_status(project)) == ["FINISHED", "FINISHED", "KILLED"]


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in Path(path).parts)


def _status(project: Path) -> list[str]:
    """The status of every run, oldest first."""
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs(["1"], order_by=["attributes.start_time ASC"])
    assert os.fspath(project) in runs[0].info.artifact_uri
    return [run.info.status for run in runs]
