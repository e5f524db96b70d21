"""Contests: what one thing takes beside another, measured in turn in one run, and how the result is told.

What is measured stands in the project's benchmarks/ and is not known here. A figure is the median of its samples with
the quartiles beside it; a ratio is of two medians, below 1 where charlm takes less. Aims that are missed are told like
any other.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from charlm.errors import CharlmError

if TYPE_CHECKING:
    from rich.table import Table

Timed = Callable[[], float]
"""Does something once and returns the seconds that it took, by the unit of its row."""
GUTENBERG = 30_000
"""Megabytes: the plain texts of all of Project Gutenberg, about."""


class NotMeasuredError(CharlmError):
    """A row cannot be measured here; the message is the reason, and what to do about it."""


@dataclass(frozen=True)
class Aim:
    """What is aimed at: at most so much of the baseline's time, of a difference to it, or of seconds."""

    most: float
    of: Literal["ratio", "seconds more", "seconds"] = "ratio"

    def __str__(self) -> str:
        return f"≤ {self.most:g} ×" if self.of == "ratio" else f"≤ {self.most:g} {self.of.replace('seconds', 's')}"

    def is_met(self, ours: float, baseline: float) -> bool:
        """Whether it is, by the medians of both."""
        return {"ratio": ours / baseline, "seconds more": ours - baseline, "seconds": ours}[self.of] <= self.most


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
    """Samples in seconds, and what is told of them."""

    samples: tuple[float, ...]
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        """The median of `samples` and their lower and upper quartile."""
        if len(samples) == 1:
            return cls(tuple(samples), samples[0], samples[0], samples[0])
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(tuple(samples), median, low, high)

    def __str__(self) -> str:
        return f"{duration(self.median)} ({duration(self.low)} – {duration(self.high)})"


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
    def verdict(self) -> str:
        """Whether the aim is met: yes, missed, or nothing where there is none."""
        if self.row.aim is None or self.ours is None or self.baseline is None:
            return ""
        return "yes" if self.row.aim.is_met(self.ours.median, self.baseline.median) else "missed"

    def content(self) -> dict[str, Any]:
        """As benchmarks.json has it."""
        return asdict(self) | {"ratio": self.ratio, "verdict": self.verdict}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Result":
        """What `content` gave."""
        aim = content["row"]["aim"]
        row = Row(**{**content["row"], "aim": Aim(**aim) if aim else None})
        ours, baseline = (
            Spread.of(content[side]["samples"]) if content[side] else None for side in ("ours", "baseline")
        )
        return cls(row, ours, baseline, content["reason"])

    def cells(self, shown: Callable[[Spread], str]) -> tuple[str, ...]:
        """As a table has it: ours, baseline, ratio, aim, verdict."""
        aim = str(self.row.aim or "")
        if self.ours is None or self.baseline is None or self.ratio is None:
            return self.row.ours, self.row.baseline, "", aim, f"not measured: {self.reason}"
        sides = (f"{self.row.ours} {shown(self.ours)}", f"{self.row.baseline} {shown(self.baseline)}")
        return *sides, shown_ratio(self.ratio), aim, self.verdict


HEADER = ("measured", "this", "against", "ratio", "aim", "met")


@dataclass(frozen=True)
class Growth:
    """What a stage took of a text: `seconds` and `peak` resident bytes, or the `problem` that it failed with."""

    text: str
    megabytes: float
    stage: str
    seconds: float
    peak: int
    problem: str = ""


def measured(contest: Contest, repeats: int) -> list[Result]:
    """The rows of `contest`, each contestant timed once in every one of `repeats` rounds."""
    samples: dict[str, list[float]] = {}
    try:
        with contest.opened() as contestants:
            for _ in range(repeats):
                for name, timed in contestants.items():
                    samples.setdefault(name, []).append(timed())
    except NotMeasuredError as err:
        return [Result(row, reason=err.message) for row in contest.rows]
    return [Result(row, Spread.of(samples[row.ours]), Spread.of(samples[row.baseline])) for row in contest.rows]


def duration(seconds: float) -> str:
    """Seconds in the unit that they are read best in."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def shown_ratio(ratio: float) -> str:
    """A ratio as a part of the baseline's time and, where it is far below 1, as how many times faster that is."""
    return f"{ratio:.2f} ×" if ratio > 0.2 else f"{ratio:.2g} × ({1 / ratio:,.0f} times faster)"


def table(results: Sequence[Result]) -> "Table":
    """The results for a terminal; rows that miss their aim in red."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(*HEADER)
    for result in results:
        style = {"missed": "red", "yes": "green"}.get(result.verdict, "")
        cells = result.cells(lambda spread: duration(spread.median))
        shown.add_row(*(Text(cell) for cell in (result.row.key, *cells)), style=style)
    return shown


def bars(results: Sequence[Result]) -> list[tuple[str, float, float | None]]:
    """For a picture: title, ratio, and the ratio that is aimed at, of the rows that were measured."""
    aims = [result.row.aim for result in results]
    return [
        (f"{result.row.title}: {result.row.ours} / {result.row.baseline}", result.ratio, _ratio(aim))
        for result, aim in zip(results, aims, strict=True)
        if result.ratio is not None
    ]


def _ratio(aim: Aim | None) -> float | None:
    return aim.most if aim and aim.of == "ratio" else None


def series(growth: Sequence[Growth]) -> dict[tuple[str, str], list[tuple[float, float, float]]]:
    """For a picture: megabytes of text, seconds and peak megabytes by text and stage, where nothing failed."""
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for point in growth:
        if not point.problem:
            found.setdefault((point.text, point.stage), []).append((point.megabytes, point.seconds, point.peak / 1e6))
    return found


def markdown(results: Sequence[Result], growth: Sequence[Growth], settings: Mapping[str, str], notes: str) -> str:
    """docs/benchmarks.md: what was measured with what, the table, the growth, and the hand-written `notes`."""
    parts = [
        "# Benchmarks",
        "Written by `charlm bench`, the text after the tables by hand in benchmarks/notes.md. A time is a median, with "
        "the quartiles in brackets; the contestants of a row take turns. Below 1 ×, charlm takes less time.",
        _markdown_table(("", ""), settings.items()),
        _markdown_table(HEADER, ((f"{r.row.title} (per {r.row.per})", *r.cells(str)) for r in results)),
        "![Each row's time as a part of its baseline's, beside its aim](images/benchmarks.png)",
        "## Growth with the text",
        *(_growth(growth) if growth else ["Not measured yet; `charlm bench --growth 1,10,100,1000` does it."]),
        notes.strip(),
    ]
    return "\n\n".join(parts) + "\n"


def _growth(growth: Sequence[Growth]) -> list[str]:
    cells = (
        (
            point.text,
            f"{point.megabytes:g}",
            point.stage,
            point.problem or duration(point.seconds),
            _megabytes(point.peak),
        )
        for point in growth
    )
    predicted = (
        (text, stage, f"about {hours(at[0])}, {_megabytes(at[1])}" if at else "not predicted")
        for (text, stage), at in predictions(growth).items()
    )
    return [
        "Each stage by itself, once, in a process of its own. A megabyte is 10⁶ bytes of UTF-8.",
        "![Seconds and peak memory of each stage by the size of the text](images/growth.png)",
        _markdown_table(("text", "MB", "stage", "seconds", "peak memory"), cells),
        f"A line through the two largest sizes predicts for all of Project Gutenberg, about {GUTENBERG / 1000:g} GB:",
        _markdown_table(("text", "stage", "time and peak memory"), predicted),
    ]


def predictions(
    growth: Sequence[Growth], megabytes: float = GUTENBERG
) -> dict[tuple[str, str], tuple[float, float] | None]:
    """Seconds and peak bytes at `megabytes` by text and stage, on the line through its two largest sizes.

    None where a stage failed, and where there is one size alone.
    """
    series: dict[tuple[str, str], list[Growth]] = {}
    for point in sorted(growth, key=lambda point: point.megabytes):
        series.setdefault((point.text, point.stage), []).append(point)
    return {key: _at(points, megabytes) for key, points in series.items()}


def _at(points: Sequence[Growth], megabytes: float) -> tuple[float, float] | None:
    """Seconds and peak bytes at `megabytes`, no less than at the largest size that was measured."""
    if len(points) < 2 or any(point.problem for point in points):
        return None
    first, last = points[-2:]
    times = (megabytes - last.megabytes) / (last.megabytes - first.megabytes)
    return (
        last.seconds + max(0.0, last.seconds - first.seconds) * times,
        last.peak + max(0, last.peak - first.peak) * times,
    )


def hours(seconds: float) -> str:
    """A long time, in hours, minutes or seconds."""
    units = (("h", 3600), ("min", 60))
    return next((f"{seconds / size:.2g} {unit}" for unit, size in units if seconds >= size), f"{seconds:.2g} s")


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in line) + " |" for line in lines
    )
