"""The pictures of docs/benchmarks.md."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.comparison import Result
from benchmarks.gpt import LearningCurve
from benchmarks.growth import Growth
from benchmarks.page import by_stage

COLORS = {"yes": "tab:green", "missed": "tab:red", "": "tab:gray"}


def speedups(results: Sequence[Result]) -> Figure:
    """A bar for each row: its time as a fraction of the baseline's, with the aim; no bar if it was not measured."""
    figure = Figure(figsize=(10, 0.38 * len(results) + 1.2), layout="constrained")
    axes, places = figure.subplots(), range(len(results))
    axes.barh(places, [result.ratio or 0 for result in results], color=[COLORS[result.verdict] for result in results])
    aims = [(result.aimed, place) for place, result in enumerate(results) if result.aimed is not None]
    axes.plot([aim for aim, _ in aims], [place for _, place in aims], "k|", markersize=14, label="aim")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(places, [_label(result) for result in results], fontsize=8)
    axes.set(xscale="log", xlabel="time as a fraction of the baseline's (less is faster)")
    axes.invert_yaxis()
    axes.legend()
    return figure


def _label(result: Result) -> str:
    row = result.row
    return f"{row.title}: {row.ours} / {row.baseline}{', not measured' if result.reason else ''}"


def learning(curves: Sequence[LearningCurve]) -> Figure:
    """Test loss by seconds of training."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        axes.plot(curve.seconds[1:], curve.losses[1:], marker=".", label=curve.name)
    axes.axhline(curves[-1].losses[-1], color="black", linewidth=0.5)
    axes.set(xlabel="seconds of training", ylabel="test loss (nats per character)")
    axes.legend()
    return figure


def growth(points: Sequence[Growth]) -> Figure:
    """By text and stage: megabytes of text against seconds, and against peak megabytes of memory."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    good = by_stage([point for point in points if not point.problem])
    texts, stages = (list(dict.fromkeys(key[place] for key in good)) for place in (0, 1))
    for (text, stage), series in good.items():
        style = {"color": f"C{stages.index(stage)}", "linestyle": "-" if text == texts[0] else "--", "marker": "."}
        sizes = [point.megabytes for point in series]
        left.plot(sizes, [point.seconds for point in series], label=f"{stage}, {text}", **style)
        right.plot(sizes, [point.peak / 1e6 for point in series], **style)
    for axes, label in ((left, "seconds"), (right, "peak memory (MB)")):
        axes.set(xscale="log", yscale="log", xlabel="text (MB)", ylabel=label)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure
