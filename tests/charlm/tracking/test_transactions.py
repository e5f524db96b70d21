"""How many transactions a store takes: a count, not a time."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, event

from charlm.provenance.code import Origin
from charlm.tracking.content import Content
from charlm.tracking.record import record
from charlm.tracking.store import Store
from charlm.training.history import Point
from tests.trainings import tracked


@contextmanager
def transactions() -> Iterator[list[object]]:
    """What this process commits to databases in the block."""
    found: list[object] = []

    def count(connection: object) -> None:
        found.append(connection)

    event.listen(Engine, "commit", count)
    try:
        yield found
    finally:
        event.remove(Engine, "commit", count)


def live_transactions(root: Path, steps: int) -> int:
    """How many a live run of so many points takes."""
    Store(root)
    metrics = dict.fromkeys(("loss/train", "loss/test", "loss/batch", "time/seconds", "speed/tokens_per_second"), 1.0)
    with transactions() as found:
        assert tracked(root, [{"metrics": metrics, "step": step} for step in range(steps)]) == ["", ""]
    return len(found)


def test_live_run_writes_to_its_store_by_the_thousand_metrics(root: Path) -> None:
    few, many = live_transactions(root, 1), live_transactions(root, 2000)
    batches = math.ceil(2000 * 5 / 950)
    assert few < 40
    assert many - few <= 2 * batches + 10  # read and write, and what came before the first batch


def test_record_writes_to_its_store_by_the_thousand_metrics(root: Path, content: Callable[..., Content]) -> None:
    def recorded(steps: int) -> int:
        points = [Point(step, 4.0 - step / steps, 3.0, 2.0) for step in range(steps)]
        result = content(points=points, checkpoint_sha256=str(steps) * 8, results_sha256=str(steps) * 8)
        store, origin = Store(root), Origin.here()
        with transactions() as found:
            record(store, result, origin)
        return len(found)

    few, many = recorded(2), recorded(2000)
    assert few < 150
    assert many - few <= 60
