"""The loss curve of a training run as history.csv, from which a lost MLflow run can be rebuilt."""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Point:
    """What was measured after `step` iterations; losses in nats per character.

    `train_loss` and `test_loss` are of the whole splits, `batch_loss` that of the last batch before its update:
    None at step 0, where there was none.
    """

    step: int
    train_loss: float
    test_loss: float
    batch_loss: float | None


def to_csv(points: Iterable[Point]) -> str:
    """One row a point under a header with the names of its fields; six decimals, an empty cell for None."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    for point in points:
        writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in asdict(point).items()})
    return out.getvalue()


def from_csv(content: str) -> list[Point]:
    """The points that to_csv wrote, to six decimals."""
    rows = csv.reader(io.StringIO(content))
    next(rows)
    return [
        Point(int(step), float(train), float(test), float(batch) if batch else None)
        for step, train, test, batch in rows
    ]
