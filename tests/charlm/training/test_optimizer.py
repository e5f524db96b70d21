"""The learning rate by step."""

import pytest

from charlm.training.optimizer import learning_rate
from tests.models_for_tests import settings


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1.0, 1.0, 1.0, 1.0]),
        ("constant", 2, [0.5, 1.0, 1.0, 1.0]),
        ("linear", 0, [1.0, 0.75, 0.5, 0.25]),
        ("linear", 2, [0.5, 1.0, 1.0, 0.5]),
        ("cosine", 0, [1.0, 0.853553, 0.5, 0.146447]),
        ("cosine", 4, [0.25, 0.5, 0.75, 1.0]),
        ("linear", 8, [0.125, 0.25, 0.375, 0.5]),
    ],
)
def test_rate_rises_then_stays_or_falls(schedule: str, warmup: int, expected: list[float]) -> None:
    given = settings(learning_rate=0.3, max_iters=4, warmup_iters=warmup, schedule=schedule)
    rates = [learning_rate(step, given) / 0.3 for step in range(1, 5)]
    assert rates == pytest.approx(expected, abs=1e-6)
