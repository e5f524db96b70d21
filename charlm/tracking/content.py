"""What a complete run contains: the results, parameters and texts of a pipeline, by MLflow's names."""

import csv
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.config import Params, flatten
from charlm.files import sha256
from charlm.results import MARKS, Results
from charlm.summary import markdown
from charlm.training.history import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Content:
    """Everything that a complete run contains."""

    checkpoint_sha256: str
    results_sha256: str
    """Of all files of the result: a complete run of another result keeps its own record."""
    params: Mapping[str, Any]
    """By dotted key, of every section."""
    points: Sequence[Point]
    metrics: Mapping[str, float]
    """Final figures by metric name; the losses are in the last of `points`."""
    references: Mapping[str, float]
    """By metric name; logged at the first and the last step, so that the UI draws a line."""
    sources: list[str]
    """Where each text comes from."""
    text_sha256: str
    tokens_sha256: Mapping[str, str]
    """Of the splits, by MLflow's context of a dataset: train and test."""
    files: Mapping[str, Path]
    """By artifact name."""
    texts: Mapping[str, str]
    """By artifact name; one that the run has stays, whatever is in it."""
    figures: Mapping[str, "Callable[[], Figure]"]
    """By artifact name; drawn if missing."""
    description: str
    """Markdown; the command that reproduces the run is added."""
    checkpoint: Path
    vocabulary: Path
    example: str
    """A prompt, the input example of the run's model."""


def content_of(results: Results, params: Params, texts: Mapping[str, str]) -> Content:
    """What the run of `results` contains; `texts` are params.yaml and dvc.lock by name."""
    metrics, points = results.read_metrics(), results.read_history()
    checkpoint = {f"checkpoint/{path.name}": path for path in (results.checkpoint, results.vocabulary)}
    samples = {f"samples/{path.name}": path for path in results.samples}
    final = [(name, split) for split in results.tokens for name in ("bits_per_char", "perplexity")]

    def loss() -> "Figure":
        from charlm.tracking import figures

        return figures.loss(points, metrics["reference"])

    def drawn(name: str, path: Path) -> "Figure":
        from charlm.tracking import figures

        with path.open(encoding="utf-8", newline="") as file:
            figure: Figure = getattr(figures, name)(csv.reader(file))
            return figure

    tables = {"next_char": results.next_char, "context": results.context, "surprise": results.surprise}
    drawings = {f"figures/{name}.png": partial(drawn, name, path) for name, path in tables.items()}
    return Content(
        checkpoint_sha256=sha256(results.checkpoint),
        results_sha256=results.digest(),
        params=flatten(params),
        points=points,
        metrics={f"{name}/{split}": metrics[split][name] for name, split in final},
        references={f"reference/{name}": value for name, value in metrics["reference"].items()},
        sources=params.data.source,
        text_sha256=sha256(results.book),
        tokens_sha256={split: sha256(path) for split, path in results.tokens.items()},
        files=checkpoint | samples | {path.name: path for path in (results.metrics, results.sources) if path.is_file()},
        texts={**texts, "figures/surprise.html": surprise_html(results.surprise)},
        figures={"figures/loss.png": loss, **drawings},
        description=markdown(results, params),
        checkpoint=results.checkpoint,
        vocabulary=results.vocabulary,
        example=_example(results.book),
    )


def surprise_html(path: Path) -> str:
    """The characters of surprise.csv as a page, each coloured by its bits, which it shows under the pointer."""
    with path.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    line_ends = {"\\n": "\n"}
    spans = (
        f'<span title="{float(bits):.2f} bits" style="background:rgba(214,39,40,{min(float(bits) / 8, 1):.2f})">'
        f"{html.escape(MARKS.get(char, char))}{line_ends.get(char, '')}</span>"
        for char, bits in rows
    )
    title = (
        "The beginning of the test split: the redder a character, the more bits it took this model (8 and more: red)"
    )
    text = f'<p>{title}</p><pre style="white-space:pre-wrap;font-size:1.1em">{"".join(spans)}</pre>'
    return (
        f'<!doctype html><html><head><meta charset="utf-8"><title>Surprise</title></head><body>{text}</body></html>\n'
    )


def _example(book: Path) -> str:
    """The beginning of the first line that is not blank; a line may be the whole text, so it is not read to its end."""
    with book.open(encoding="utf-8") as file:
        while piece := file.readline(40):
            if piece.strip():
                return piece.strip()
    return "\n"
