"""The figures of a run: the only module that imports matplotlib."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from charlm.results import MARKS
from charlm.training.history import Point

REFERENCE_STYLES: dict[str, Any] = {
    "uniform": ":",
    "unigram": "-.",
    "bigram_counts": "--",
    "bigram_floor": "-",
    "kneser_ney": (0, (8, 1, 1, 1)),
}


def _figure(width: float, height: float, **margins: float) -> tuple[Figure, Axes]:
    """A figure of inches with fixed margins: a layout that fits them to the labels draws everything twice."""
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(**{"left": 0.09, "right": 0.97, "bottom": 0.11, "top": 0.92} | margins)
    return figure, figure.subplots()


def loss(points: Sequence[Point], references: Mapping[str, float]) -> Figure:
    """Train and test loss over the iterations, with the references as lines; nats per character."""
    figure, axes = _figure(8, 5, right=0.78)  # the references' names are beside it
    steps = [point.step for point in points]
    axes.plot(steps, [point.train_loss for point in points], marker=".", label="train")
    axes.plot(steps, [point.test_loss for point in points], marker=".", label="test")
    low, high = axes.get_ylim()
    heights = _apart(references, 0.045 * (max(high, *references.values()) - min(low, *references.values())))
    for name, value in references.items():
        axes.axhline(value, color="gray", linewidth=1, linestyle=REFERENCE_STYLES[name])
        beside = axes.get_yaxis_transform()  # x in parts of the axes, y in data
        axes.text(1.01, heights[name], f"{name} {value:.4f}", transform=beside, va="center", fontsize=8)
    axes.set(xlabel="iterations", ylabel="loss (nats per character)", title="Loss of the whole splits")
    axes.legend()
    return figure


def _apart(values: Mapping[str, float], gap: float) -> dict[str, float]:
    """The values, raised where needed to be `gap` apart: the heights of their labels."""
    heights: dict[str, float] = {}
    last = float("-inf")
    for name, value in sorted(values.items(), key=lambda item: item[1]):
        heights[name] = last = max(value, last + gap)
    return heights


def next_char(rows: Iterable[Sequence[str]]) -> Figure:
    """The rows of next_char.csv as an image: row the character, column the next, the shade its probability."""
    pairs = iter(rows)
    next(pairs)
    table = [(char, float(probability)) for char, _, probability, _ in pairs]
    labels = list(dict.fromkeys(char for char, _ in table))
    size = len(labels)
    side = max(6.0, 0.16 * size)  # inches
    figure, axes = _figure(side, side, left=0.6 / side + 0.04, right=1.0)
    matrix = np.array([probability for _, probability in table]).reshape(size, size)  # (F, F)
    image = axes.imshow(matrix, cmap="Blues", norm=PowerNorm(0.5, vmin=0))
    axes.set_xticks(range(size), labels, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(range(size), labels, fontsize=7, parse_math=False)
    axes.set(xlabel="next character", ylabel="character", title="Probability of the next character")
    figure.colorbar(image, ax=axes, shrink=0.7)
    return figure


def context(rows: Iterable[Sequence[str]]) -> Figure:
    """The rows of context.csv: what each character more of context is worth."""
    _, *values = rows
    figure, axes = _figure(8, 5)
    axes.plot([int(seen) for seen, _ in values], [float(loss) for _, loss in values], marker=".")
    axes.set(
        xlabel="characters seen", ylabel="loss (nats per character)", title="Loss by the number of characters seen"
    )
    axes.set_xscale("log", base=2)
    return figure


def surprise(rows: Iterable[Sequence[str]]) -> Figure:
    """The rows of surprise.csv as a text, the redder a character the more bits it took: 60 of them a line."""
    _, *values = rows
    figure, axes = _figure(10, 0.28 * (len(values) // 60 + 1) + 1, left=0.02, right=1.0, bottom=0.03)
    bits = np.full((len(values) // 60 + 1, 60), np.nan)
    for number, (char, value) in enumerate(values):
        row, column = divmod(number, 60)
        bits[row, column] = float(value)
        axes.text(
            column,
            row,
            MARKS.get(char, char),
            ha="center",
            va="center",
            family="monospace",
            fontsize=9,
            parse_math=False,
        )
    picture = axes.imshow(bits, cmap="Reds", vmin=0, vmax=8, aspect="auto")
    axes.set_axis_off()
    axes.set_title("The beginning of the test split, by the bits that each character took")
    figure.colorbar(picture, ax=axes, label="bits")
    return figure
