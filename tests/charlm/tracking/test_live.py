"""A training's own run in a real store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charlm.tracking.live import live_run
from charlm.tracking.process import process
from charlm.tracking.store import Store
from charlm.training.history import Point


def test_more_metrics_than_one_call_takes_all_arrive(
    root: Path, tmp_path: Path, course: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint").write_bytes(b"weights")
    elsewhere = tmp_path / "elsewhere"  # as `dvc exp run --temp` runs it
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    warnings: list[str] = []
    with live_run(root, {"train.seed": 1}, warn=warnings.append) as run:
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


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no such thing"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_training_that_ends_badly_leaves_its_message_and_its_log(
    root: Path, error: BaseException, status: str, tmp_path: Path
) -> None:
    with pytest.raises(type(error)), live_run(root, {"train.seed": 1}, warn=pytest.fail) as run:  # noqa: PT012
        run.log(Point(0, 4.5, 4.6, None), None)
        raise error
    store = Store(root)
    [logged] = store.runs()
    assert logged.info.status == status
    assert logged.data.tags["mlflow.note.content"] == (str(error) or "KeyboardInterrupt")
    assert logged.data.metrics["loss/test"] == 4.6
    log = Path(store.client.download_artifacts(logged.info.run_id, "log.txt", str(tmp_path))).read_text()
    for line in ("train.seed = 1", "step=0, train_loss=4.5", f"{status}\nTraceback", type(error).__name__):
        assert line in log


def test_run_of_a_process_that_was_killed_is_closed_by_the_next_training(root: Path) -> None:
    store = Store(root)

    host, pid, _ = process().split()
    left = store.create_run("trained", {"charlm.process": f"{host} {pid} 1.00"}, None)
    elsewhere = store.create_run("trained", {"charlm.process": f"elsewhere {pid} 1.00"}, None)
    with live_run(root, {"train.seed": 1}, warn=pytest.fail):
        status = {run.info.run_id: run.info.status for run in store.runs()}
    assert (status[left], status[elsewhere]) == ("KILLED", "RUNNING")
