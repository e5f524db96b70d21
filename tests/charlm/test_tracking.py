"""The record in a real store, where the pipeline does not lead."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Metric

from charlm.history import Point
from charlm.tracking import Content, Store, TrackingError, live_run, record

CHECKPOINT = "a" * 64
POINTS = [Point(0, 3.0, 3.1, None), Point(10, 2.0, 2.1, 2.05), Point(15, 1.5, 1.6, 1.55)]


@pytest.fixture
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(results: str = "b" * 64) -> Content:
    params = {"train.seed": 1, "data.source": "a.txt"}
    return Content(CHECKPOINT, results, params, POINTS, {"perplexity/test": 4.9}, "a.txt", [], {}, {}, {}, "A note")


def course(store: Store, run_id: str, key: str) -> dict[int, float]:
    metrics = store.client.get_metric_history(run_id, key)
    assert len(metrics) == len({metric.step for metric in metrics})
    return {metric.step: metric.value for metric in metrics}


def test_points_that_did_not_arrive_are_added_once(root: Path) -> None:
    store = Store(root)
    run_id = store.create_run({"charlm.checkpoint_sha256": CHECKPOINT})
    store.client.log_batch(run_id, metrics=[Metric("loss/test", 3.1, 1, 0), Metric("loss/test", 1.6, 1, 15)])
    for _ in range(2):
        assert record(root, content()) == [run_id]
        assert course(store, run_id, "loss/test") == {0: 3.1, 10: 2.1, 15: 1.6}
        assert course(store, run_id, "loss/train") == {0: 3.0, 10: 2.0, 15: 1.5}
        assert course(store, run_id, "loss/batch") == {10: 2.05, 15: 1.55}
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_every_run_of_the_checkpoint_is_completed_and_one_of_other_params_left_alone(root: Path) -> None:
    store = Store(root)
    tags = {"charlm.checkpoint_sha256": CHECKPOINT}
    first, second, other = (store.create_run(tags) for _ in range(3))
    store.client.log_param(other, "train.seed", "2")
    assert sorted(record(root, content())) == sorted([first, second])
    assert store.client.get_run(other).data.metrics == {}


def test_other_result_of_the_same_checkpoint_keeps_a_record_of_its_own(root: Path) -> None:
    """Edited sampling code overwrote the samples of a run whose commit, patch and lock stayed the old ones."""
    [first] = record(root, content())
    [second] = record(root, content(results="c" * 64))
    assert first != second
    assert record(root, content()) == [first]


def test_more_metrics_than_one_call_takes_all_arrive_live(root: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"weights")
    told: list[str] = []
    with live_run(root, {"train.seed": 1}, warn=told.append) as run:
        for step in range(1500):
            run.log(Point(step, 1.0, 1.0, 1.0), 100.0)
        run.finish(tmp_path / "checkpoint")
    store = Store(root)
    [held] = store.client.search_runs([store.experiment_id])
    assert told == []
    assert course(store, held.info.run_id, "loss/batch") == dict.fromkeys(range(1500), 1.0)
    assert held.info.status == "FINISHED"
    assert "charlm.checkpoint_sha256" in held.data.tags


def test_deleted_experiment_is_told_with_the_way_to_bring_it_back(root: Path) -> None:
    store = Store(root)
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(TrackingError, match=r"its experiment charlm is deleted\. `mlflow experiments restore -x 1`"):
        Store(root)


def test_two_processes_may_meet_in_a_folder_without_a_store(tmp_path: Path) -> None:
    """One of them lost: MLflow's own lock does not cover all that it does to a new database."""
    command = [sys.executable, "-c", "from charlm.tracking import Store; from pathlib import Path; Store(Path.cwd())"]
    project = Path(__file__).resolve().parents[2]
    both = [subprocess.Popen(command, cwd=tmp_path, env={"PYTHONPATH": str(project)}) for _ in range(3)]
    assert [process.wait() for process in both] == [0, 0, 0]
