"""The pictures of a run: the only module that imports matplotlib."""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from charlm.history import Point

REFERENCE_STYLES = {"uniform": ":", "unigram": "-.", "bigram_counts": "--", "bigram_floor": "-"}


def loss(points: Sequence[Point], references: Mapping[str, float]) -> Figure:
    """Train and test loss over the iterations, with the references as lines; nats per character."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    steps = [point.step for point in points]
    axes.plot(steps, [point.train_loss for point in points], marker=".", label="train")
    axes.plot(steps, [point.test_loss for point in points], marker=".", label="test")
    low, high = axes.get_ylim()
    heights = _apart(references, 0.045 * (max(high, *references.values()) - min(low, *references.values())))
    for name, value in references.items():
        axes.axhline(value, color="gray", linewidth=1, linestyle=REFERENCE_STYLES[name])
        axes.annotate(
            f"{name} {value:.4f}",
            (1, value),
            (1.01, heights[name]),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
        )
    axes.set(xlabel="iterations", ylabel="loss (nats per character)", title="Loss of the whole splits")
    axes.legend()
    return figure


def _apart(values: Mapping[str, float], gap: float) -> dict[str, float]:
    """The values, raised where it takes that to be `gap` apart, as labels at these heights have to be."""
    heights: dict[str, float] = {}
    last = float("-inf")
    for name, value in sorted(values.items(), key=lambda item: item[1]):
        heights[name] = last = max(value, last + gap)
    return heights


def next_char(content: str) -> Figure:
    """next_char.csv as a picture: row the character, column the next, the shade its probability."""
    rows = list(csv.DictReader(io.StringIO(content)))
    labels = list(dict.fromkeys(row["char"] for row in rows))
    size = len(labels)
    matrix = np.array([float(row["probability"]) for row in rows]).reshape(size, size)  # (V, V)
    side = max(6.0, 0.16 * size)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(matrix, cmap="Blues", norm=PowerNorm(0.5, vmin=0))
    axes.set_xticks(range(size), labels, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(range(size), labels, fontsize=7, parse_math=False)
    axes.set(xlabel="next character", ylabel="character", title="Probability of the next character")
    figure.colorbar(picture, ax=axes, shrink=0.7)
    return figure


def speedups(rows: Sequence[tuple[str, float, float | None]]) -> Figure:
    """Bars: for each row its title, its time as a part of the baseline's, and the part aimed at, if there is one."""
    figure = Figure(figsize=(10, 0.38 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    colors = ["tab:gray" if aim is None else "tab:green" if ratio <= aim else "tab:red" for _, ratio, aim in rows]
    axes.barh(places, [ratio for _, ratio, _ in rows], color=colors)
    aims = [(aim, place) for place, (_, _, aim) in enumerate(rows) if aim is not None]
    axes.plot([aim for aim, _ in aims], [place for _, place in aims], "k|", markersize=14, label="aim")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(places, [title for title, _, _ in rows], fontsize=8)
    axes.set(xscale="log", xlabel="time as a part of the baseline's (less is faster)")
    axes.invert_yaxis()
    axes.legend()
    return figure


def growth(series: Mapping[tuple[str, str], Sequence[tuple[float, float, float]]]) -> Figure:
    """By text and stage: megabytes of text against seconds, and against peak megabytes of memory."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    stages = list(dict.fromkeys(stage for _, stage in series))
    texts = list(dict.fromkeys(text for text, _ in series))
    for (text, stage), points in series.items():
        style = {"color": f"C{stages.index(stage)}", "linestyle": "-" if text == texts[0] else "--", "marker": "."}
        sizes, seconds, peaks = zip(*points, strict=True)
        left.plot(sizes, seconds, label=f"{stage}, {text}", **style)
        right.plot(sizes, peaks, **style)
    for axes, label in ((left, "seconds"), (right, "peak memory (MB)")):
        axes.set(xscale="log", yscale="log", xlabel="text (MB)", ylabel=label)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure
