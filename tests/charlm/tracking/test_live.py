"""A training's own run in a real store, kept by a process of its own."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from charlm.tracking.live import live_run
from charlm.tracking.process import process
from charlm.tracking.store import Store
from charlm.training.history import Point
from tests.trainings import tracked


def test_more_metrics_than_one_call_takes_all_arrive_though_the_store_is_locked_while_they_come(
    root: Path, tmp_path: Path, course: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint").write_bytes(b"weights")
    elsewhere = tmp_path / "elsewhere"  # as `dvc exp run --temp` runs it
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    warnings: list[str] = []
    with live_run(root, warn=warnings.append) as run:
        run.begin({"train.seed": 1})
        with closing(sqlite3.connect(root / "mlflow.db", timeout=20)) as database:
            database.execute("BEGIN IMMEDIATE")
            for step in range(1500):
                run.log(Point(step, 1.0, 1.0, 1.0), 100.0)
        run.finish(tmp_path / "checkpoint")
    store = Store(root)
    [logged] = store.runs()
    assert warnings == []
    assert list(elsewhere.iterdir()) == []
    assert course(store, logged.info.run_id, "loss/batch") == dict.fromkeys(range(1500), 1.0)
    assert logged.info.status == "FINISHED"
    assert "charlm.checkpoint_sha256" in logged.data.tags
    # the machine at the start and at the end, however short the run
    assert course(store, logged.info.run_id, "system/system_memory_usage_percentage").keys() >= {0, 1}
    assert [entry.path for entry in store.client.list_artifacts(logged.info.run_id)] == [
        "environment.json",
        "patch.diff",
    ]


def test_training_that_ends_badly_leaves_its_message_and_its_log(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such"), live_run(root, warn=pytest.fail) as run:  # noqa: PT012
        run.begin({"train.seed": 1})
        run.log(Point(0, 4.5, 4.6, None), None)
        raise ValueError("no such thing")
    store = Store(root)
    [logged] = store.runs()
    assert logged.info.status == "FAILED"
    assert logged.data.tags["mlflow.note.content"] == "no such thing"
    assert logged.data.metrics["loss/test"] == 4.6
    log = Path(store.client.download_artifacts(logged.info.run_id, "log.txt", str(tmp_path))).read_text()
    for line in ("train.seed = 1", "step=0, train_loss=4.5", "FAILED\nTraceback", "ValueError"):
        assert line in log


def test_run_of_a_process_that_was_killed_is_closed_by_the_next_training(root: Path) -> None:
    store = Store(root)

    host, pid, _ = process().split()
    left = store.create_run("trained", {"charlm.process": f"{host} {pid} 1.00"}, None)
    elsewhere = store.create_run("trained", {"charlm.process": f"elsewhere {pid} 1.00"}, None)
    assert tracked(root) == ["", ""]
    status = {run.info.run_id: run.info.status for run in store.runs()}
    assert (status[left], status[elsewhere]) == ("KILLED", "RUNNING")
