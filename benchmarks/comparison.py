"""Time several ways of doing one thing in turn, in one run, and compare their medians two by two.

`operations` and `pipelines` define what is timed, `page` shows the results. A time is the median of its samples, with
the quartiles beside it. A ratio compares two medians: below 1, charlm takes less time.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from charlm.errors import CharlmError

Timer = Callable[[], float]
"""Does something once and returns the seconds that it took, for each unit of its row."""


@dataclass(frozen=True)
class Aim:
    """The most that is allowed: a multiple of the baseline's time, a difference from it, or a number of seconds."""

    most: float
    of: Literal["ratio", "seconds more", "seconds"] = "ratio"

    def __str__(self) -> str:
        return f"≤ {self.most:g} ×" if self.of == "ratio" else f"≤ {self.most:g} {self.of.replace('seconds', 's')}"

    def ratio(self, baseline: float) -> float:
        """The aim as a ratio to a baseline that takes `baseline` seconds."""
        return {"ratio": self.most, "seconds more": 1 + self.most / baseline, "seconds": self.most / baseline}[self.of]


@dataclass(frozen=True)
class Row:
    """A row of the table: what is timed, for each `per`, and the names of the two timers that it compares."""

    key: str
    title: str
    per: str
    ours: str
    baseline: str
    aim: Aim | None = None


@dataclass(frozen=True)
class Comparison:
    """Timers that take turns, and the rows that each compare two of them.

    `timers` sets up and gives the timers by name. It raises CharlmError if they cannot run on this machine.
    """

    rows: tuple[Row, ...]
    timers: Callable[[], AbstractContextManager[Mapping[str, Timer]]]


@dataclass(frozen=True)
class Spread:
    """Samples in seconds, with their median and quartiles."""

    samples: tuple[float, ...]
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        """The spread of one or more samples."""
        low, median, high = statistics.quantiles([*samples] * (1 + (len(samples) == 1)), n=4, method="inclusive")
        return cls(tuple(samples), median, low, high)


@dataclass(frozen=True)
class Result:
    """A measured row, or the reason why it was not measured."""

    row: Row
    ours: Spread | None = None
    baseline: Spread | None = None
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """Our median divided by the baseline's."""
        return self.ours.median / self.baseline.median if self.ours and self.baseline else None

    @property
    def aimed(self) -> float | None:
        """The largest ratio that meets the aim; None without an aim or a measurement."""
        return self.row.aim.ratio(self.baseline.median) if self.row.aim and self.baseline else None

    @property
    def verdict(self) -> Literal["yes", "missed", ""]:
        """Whether the aim is met; empty without an aim or a measurement."""
        if self.ratio is None or self.aimed is None:
            return ""
        return "yes" if self.ratio <= self.aimed else "missed"


def time_call(call: Callable[[], object], units: int = 1) -> float:
    """Seconds that `call` takes for each of `units`. Garbage from earlier calls is collected first."""
    gc.collect()
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) / units


def measure(comparison: Comparison, repeats: int) -> list[Result]:
    """Run each timer that a row names once in each of `repeats` rounds.

    A timer that raises CharlmError is not run again, and its rows have the error as their reason.
    """
    names = {name for row in comparison.rows for name in (row.ours, row.baseline)}
    samples: dict[str, list[float]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    try:
        with comparison.timers() as timers:
            for name in [name for name in timers if name in names] * repeats:
                if name not in failed:
                    try:
                        samples[name].append(timers[name]())
                    except CharlmError as err:
                        failed[name] = err.message
    except CharlmError as err:
        failed = dict.fromkeys(names, err.message)
    return [_result(row, samples, failed) for row in comparison.rows]


def _result(row: Row, samples: Mapping[str, Sequence[float]], failed: Mapping[str, str]) -> Result:
    if reason := failed.get(row.ours) or failed.get(row.baseline):
        return Result(row, reason=reason)
    return Result(row, Spread.of(samples[row.ours]), Spread.of(samples[row.baseline]))
