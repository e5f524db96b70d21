"""Contests: what one thing takes beside another, measured in turn in one run.

What is measured stands in `parts` and `pipelines`, how it is told in `page`. A figure is the median of its samples
with the quartiles beside it; a ratio is of two medians, below 1 where charlm takes less.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from charlm.errors import CharlmError

Timed = Callable[[], float]
"""Does something once and returns the seconds that it took, by the unit of its row."""


class NotMeasuredError(CharlmError):
    """Something cannot be measured here; the message is the reason, and what to do about it."""


@dataclass(frozen=True)
class Aim:
    """What is aimed at: at most so much of the baseline's time, of a difference to it, or of seconds."""

    most: float
    of: Literal["ratio", "seconds more", "seconds"] = "ratio"

    def __str__(self) -> str:
        return f"≤ {self.most:g} ×" if self.of == "ratio" else f"≤ {self.most:g} {self.of.replace('seconds', 's')}"

    def ratio(self, baseline: float) -> float:
        """The part of the `baseline`'s seconds that it allows."""
        return {"ratio": self.most, "seconds more": 1 + self.most / baseline, "seconds": self.most / baseline}[self.of]


@dataclass(frozen=True)
class Row:
    """A comparison: two contestants by their names, and what of them is timed."""

    key: str
    title: str
    per: str
    ours: str
    baseline: str
    aim: Aim | None = None


@dataclass(frozen=True)
class Contest:
    """Contestants that are measured in turn, and the rows that compare two of them each.

    `opened` makes ready and gives the contestants by name; it raises NotMeasuredError where they cannot be.
    """

    rows: tuple[Row, ...]
    opened: Callable[[], AbstractContextManager[Mapping[str, Timed]]]


@dataclass(frozen=True)
class Spread:
    """Samples in seconds, their median and their lower and upper quartile."""

    samples: tuple[float, ...]
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        """That of `samples`, at least one."""
        low, median, high = statistics.quantiles([*samples] * (1 + (len(samples) == 1)), n=4, method="inclusive")
        return cls(tuple(samples), median, low, high)


@dataclass(frozen=True)
class Result:
    """A row as it was measured, or the reason why it was not."""

    row: Row
    ours: Spread | None = None
    baseline: Spread | None = None
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours by the baseline."""
        return self.ours.median / self.baseline.median if self.ours and self.baseline else None

    @property
    def aimed(self) -> float | None:
        """The ratio that would be enough; None where there is no aim, or nothing was measured."""
        return self.row.aim.ratio(self.baseline.median) if self.row.aim and self.baseline else None

    @property
    def verdict(self) -> Literal["yes", "missed", ""]:
        """Whether the aim is met, where there is one."""
        if self.ratio is None or self.aimed is None:
            return ""
        return "yes" if self.ratio <= self.aimed else "missed"


def timed(call: Callable[[], object], units: int = 1) -> float:
    """Seconds that `call` takes by unit; what was left behind before is collected before it."""
    gc.collect()
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) / units


def measured(contest: Contest, repeats: int) -> list[Result]:
    """The rows of `contest`, each contestant of theirs timed once in every one of `repeats` rounds.

    One that raises a CharlmError is left out from then on, and its rows say why.
    """
    names = {name for row in contest.rows for name in (row.ours, row.baseline)}
    samples: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    try:
        with contest.opened() as contestants:
            running = {name: contestant for name, contestant in contestants.items() if name in names}
            for _ in range(repeats):
                for name in [name for name in running if name not in failed]:
                    _attempt(name, running[name], samples, failed)
    except NotMeasuredError as err:
        failed = dict.fromkeys(names, err.message)
    return [_result(row, samples, failed) for row in contest.rows]


def _attempt(name: str, contestant: Timed, samples: dict[str, list[float]], failed: dict[str, str]) -> None:
    try:
        samples.setdefault(name, []).append(contestant())
    except CharlmError as err:
        failed[name] = err.message


def _result(row: Row, samples: Mapping[str, Sequence[float]], failed: Mapping[str, str]) -> Result:
    if reason := failed.get(row.ours) or failed.get(row.baseline):
        return Result(row, reason=reason)
    return Result(row, Spread.of(samples[row.ours]), Spread.of(samples[row.baseline]))
