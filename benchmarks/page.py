"""Show what was measured: a table in the terminal, and docs/benchmarks.md. A missed aim is shown like any result."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.comparison import Result, Spread
from benchmarks.gpt import LearningCurve
from benchmarks.growth import Growth

if TYPE_CHECKING:
    import rich.table

HEADER = ("measured", "this", "against", "ratio", "aim", "met")
GUTENBERG = 30_000
"""Megabytes: about the size of all plain texts of Project Gutenberg."""


@dataclass(frozen=True)
class Table:
    """The results of one run, and what they were measured with."""

    settings: dict[str, str] = field(default_factory=dict)
    rows: list[Result] = field(default_factory=list)


@dataclass(frozen=True)
class Learning:
    """The learning curves of charlm's GPT and of its baseline, in this order, and what they were measured with."""

    settings: dict[str, str] = field(default_factory=dict)
    curves: list[LearningCurve] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """The growth with the text, and what it was measured with."""

    settings: dict[str, str] = field(default_factory=dict)
    points: list[Growth] = field(default_factory=list)


def terminal(results: Sequence[Result]) -> "rich.table.Table":
    """The results by key, green where they meet their aim and red where they miss it."""
    import rich.table
    from rich.text import Text

    table = rich.table.Table(*HEADER)
    for result in results:
        style = {"missed": "red", "yes": "green"}.get(result.verdict, "")
        cells = _cells(result, lambda spread: duration(spread.median))
        table.add_row(*(Text(cell) for cell in (result.row.key, *cells)), style=style)
    return table


def markdown(table: Table, learning: Learning, curve: Curve, notes: str) -> str:
    """docs/benchmarks.md: the table, the learning curves, the growth, and the hand-written `notes`."""
    sections = [
        "# Benchmarks",
        "`python -m benchmarks` writes this page; the text after the tables comes from benchmarks/notes.md. A time is "
        "a median, with the quartiles in brackets. The two sides of a row take turns. Below 1 ×, charlm takes less "
        "time.",
        *(_table(table) if table.rows else ["Not measured yet: run `python -m benchmarks`."]),
        "## A GPT beside nanoGPT's recipe",
        *(_learning(learning) if learning.curves else ["Not measured yet: run `python -m benchmarks --gpt`."]),
        "## Growth with the text",
        *(_growth(curve) if curve.points else ["Not measured yet: run `python -m benchmarks --growth 1,10,100,1000`."]),
        notes.strip(),
    ]
    return "\n\n".join(sections) + "\n"


def duration(seconds: float) -> str:
    """`seconds` with three digits, in the largest unit that is not longer."""
    units = (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 0.0))
    unit, size = next((unit, size) for unit, size in units if seconds >= size)
    return f"{seconds / (size or 1e-9):.3g} {unit}"


def predictions(
    points: Sequence[Growth], megabytes: float = GUTENBERG
) -> dict[tuple[str, str], tuple[float, float] | None]:
    """Seconds and peak bytes at `megabytes` by text and stage, on the line through the two largest sizes.

    None if the stage failed at any size, or was measured at one size only.
    """
    return {key: _predict(series, megabytes) for key, series in by_stage(points).items()}


def by_stage(points: Sequence[Growth]) -> dict[tuple[str, str], list[Growth]]:
    """The points of each text and stage, small texts first."""
    series: dict[tuple[str, str], list[Growth]] = {}
    for point in sorted(points, key=lambda point: point.megabytes):
        series.setdefault((point.text, point.stage), []).append(point)
    return series


def _predict(points: Sequence[Growth], megabytes: float) -> tuple[float, float] | None:
    """Seconds and peak bytes at `megabytes`, never less than at the largest measured size."""
    if len(points) < 2 or any(point.problem for point in points):
        return None
    first, last = points[-2:]
    times = (megabytes - last.megabytes) / (last.megabytes - first.megabytes)
    return (
        last.seconds + max(0.0, last.seconds - first.seconds) * times,
        last.peak + max(0, last.peak - first.peak) * times,
    )


def _table(table: Table) -> list[str]:
    return [
        _markdown_table(("", ""), table.settings.items()),
        _markdown_table(HEADER, ((f"{r.row.title} (per {r.row.per})", *_cells(r, _spread)) for r in table.rows)),
        "![Each row's time as a fraction of its baseline's, beside its aim](images/benchmarks.png)",
    ]


def _learning(learning: Learning) -> list[str]:
    ours, baseline = learning.curves
    rows = (
        (
            curve.name,
            f"{curve.parameters:,}",
            f"{curve.iterations:,}",
            duration(curve.seconds[-1]),
            duration(curve.seconds[-1] / curve.iterations),
            f"{curve.losses[-1]:.4f}",
        )
        for curve in learning.curves
    )
    reached = ours.seconds_to(baseline.losses[-1])
    result = (
        "never" if reached is None else f"after {duration(reached)}, {reached / baseline.seconds[-1]:.2f} × the time"
    )
    return [
        f"{ours.name} has the baseline's last loss {result}. Both train on the book in float32, in turns; the clock "
        "stops while the whole test split is measured, with at least half a block of context before each character.",
        _markdown_table(("", ""), learning.settings.items()),
        _markdown_table(("", "parameters", "iterations", "training", "per iteration", "test loss"), rows),
        "![Test loss by seconds of training](images/gpt.png)",
    ]


def _growth(curve: Curve) -> list[str]:
    measured = (
        (point.text, f"{point.megabytes:g}", point.stage, point.problem or duration(point.seconds), _mb(point.peak))
        for point in curve.points
    )
    predicted = (
        (*key, duration(at[0]), _mb(at[1])) if at else (*key, "not predicted", "")
        for key, at in predictions(curve.points).items()
    )
    header = ("text", "stage", "seconds", "peak memory")
    return [
        "Each stage runs in its own process, on books of 230 kB. The seconds are a median, the peak is the largest. "
        "A megabyte is 10⁶ bytes of UTF-8.",
        _markdown_table(("", ""), curve.settings.items()),
        "![Seconds and peak memory of each stage by the size of the text](images/growth.png)",
        _markdown_table(("text", "MB", *header[1:]), measured),
        f"The line through the two largest sizes predicts this for Project Gutenberg, about {GUTENBERG / 1000:g} GB:",
        _markdown_table(header, predicted),
    ]


def _cells(result: Result, show: Callable[[Spread], str]) -> tuple[str, ...]:
    """Ours, baseline, ratio, aim, verdict."""
    row, aim = result.row, str(result.row.aim or "")
    if result.ours is None or result.baseline is None or result.ratio is None:
        return row.ours, row.baseline, "", aim, f"not measured: {result.reason}"
    ratio = (
        f"{result.ratio:.2f} ×"
        if result.ratio > 0.2
        else f"{result.ratio:.2g} × ({1 / result.ratio:,.0f} times faster)"
    )
    return f"{row.ours} {show(result.ours)}", f"{row.baseline} {show(result.baseline)}", ratio, aim, result.verdict


def _spread(spread: Spread) -> str:
    return f"{duration(spread.median)} ({duration(spread.low)} – {duration(spread.high)})"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in line) + " |" for line in lines
    )
