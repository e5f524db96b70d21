"""A store for each test, and the metrics in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.tracking.store import Store


@pytest.fixture
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def course() -> Callable[[Store, str, str], dict[int, float]]:
    return course_of


def course_of(store: Store, run_id: str, key: str) -> dict[int, float]:
    """Value by step of a metric, no step twice, in order."""
    metrics = store.client.get_metric_history(run_id, key)
    steps = [metric.step for metric in metrics]
    assert len(steps) == len(set(steps))
    return {metric.step: metric.value for metric in metrics}
