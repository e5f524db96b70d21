"""history.csv: its exact text and the points that come back from it."""

from hypothesis import given
from hypothesis import strategies as st

from charlm.training.history import Point, from_csv, to_csv

LOSSES = st.floats(0, 1e6)
POINTS = st.builds(Point, st.integers(0, 10**9), LOSSES, LOSSES, st.none() | LOSSES)


def test_a_point_is_a_row_with_six_decimals() -> None:
    points = [Point(0, 4.75, 4.8125, None), Point(100, 4.12345678, 4.0, 1e-7), Point(150, 12.0, 3.9999999, 4.5)]
    assert to_csv(iter(points)) == (
        "step,train_loss,test_loss,batch_loss\n"
        "0,4.750000,4.812500,\n"
        "100,4.123457,4.000000,0.000000\n"
        "150,12.000000,4.000000,4.500000\n"
    )


def test_no_points_are_a_header() -> None:
    assert to_csv([]) == "step,train_loss,test_loss,batch_loss\n"
    assert from_csv(to_csv([])) == []


@given(st.lists(POINTS))
def test_points_come_back_to_six_decimals(points: list[Point]) -> None:
    assert from_csv(to_csv(points)) == [
        Point(p.step, round(p.train_loss, 6), round(p.test_loss, 6), p.batch_loss and round(p.batch_loss, 6))
        for p in points
    ]
