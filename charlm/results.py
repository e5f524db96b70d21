"""What the stages have left below data/: read back for the summary, and as what its MLflow run holds."""

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.errors import CharlmError
from charlm.files import sha256
from charlm.tracking.logged_model import Trained
from charlm.tracking.record import Content, Part
from charlm.training.history import Point, from_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Metrics = dict[str, dict[str, float]]


class NoResultsError(CharlmError):
    """A file that a stage writes is not there."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is not there.\n`dvc repro` makes it; `dvc pull` fetches it if a remote holds it.")


@dataclass(frozen=True)
class Results:
    """The files of a finished pipeline below the folder `data`."""

    data: Path

    def __post_init__(self) -> None:
        tokens = self.tokens("train"), self.tokens("test")
        trained = self.checkpoint, self.history, self.metrics, self.next_char, *self.samples
        for path in (self.book, self.vocabulary, *tokens, *trained):
            if not path.is_file():
                raise NoResultsError(str(path))

    @property
    def book(self) -> Path:
        """The text."""
        return self.data / "download/book.txt"

    @property
    def vocabulary(self) -> Path:
        """Its characters."""
        return self.data / "prepare/vocabulary.json"

    def tokens(self, part: str) -> Path:
        """The tokens of the `train` or the `test` part."""
        return self.data / f"prepare/{part}.npy"

    @property
    def checkpoint(self) -> Path:
        """The trained weights."""
        return self.data / "train/model.safetensors"

    @property
    def history(self) -> Path:
        """The loss curve."""
        return self.data / "train/history.csv"

    @property
    def metrics(self) -> Path:
        """The final figures."""
        return self.data / "evaluate/metrics.json"

    @property
    def next_char(self) -> Path:
        """The matrix of probabilities."""
        return self.data / "evaluate/next_char.csv"

    @property
    def samples(self) -> tuple[Path, Path]:
        """Text from the untrained and from the trained model."""
        return self.data / "sample/untrained.txt", self.data / "sample/trained.txt"

    def read_metrics(self) -> Metrics:
        """metrics.json."""
        content: Metrics = json.loads(self.metrics.read_text(encoding="utf-8"))
        return content

    def read_history(self) -> list[Point]:
        """history.csv."""
        return from_csv(self.history.read_text(encoding="utf-8"))

    def content(self, params: Mapping[str, Any], pipeline: dict[str, str], note: str) -> Content:
        """What the MLflow run of these results holds.

        `params` are those of every section by dotted key, `pipeline` the texts of params.yaml and dvc.lock by name.
        """
        metrics, points = self.read_metrics(), self.read_history()
        files = {f"checkpoint/{path.name}": path for path in (self.checkpoint, self.vocabulary)}
        files |= {f"samples/{path.name}": path for path in self.samples} | {self.metrics.name: self.metrics}
        return Content(
            checkpoint_sha256=sha256(self.checkpoint),
            results_sha256=self._digest(),
            params=params,
            points=points,
            metrics=_final(metrics),
            levels={f"reference/{name}": loss for name, loss in metrics["reference"].items()},
            source=params["data.source"],
            parts=[Part(purpose, sha256(self.tokens(purpose)), sha256(self.book)) for purpose in ("train", "test")],
            files=files,
            trained=Trained(self.checkpoint, self.vocabulary, self._opening()),
            texts=pipeline,
            figures={"figures/loss.png": self._draw_loss, "figures/next_char.png": self._draw_next_char},
            note=note,
        )

    def _opening(self) -> str:
        """The first line of the text that holds anything."""
        with self.book.open(encoding="utf-8") as book:
            return next(line.strip() for line in book if line.strip())

    def _digest(self) -> str:
        """SHA-256 over the digests of all that the stages after prepare have left."""
        made = (self.checkpoint, self.history, self.metrics, self.next_char, *self.samples)
        return hashlib.sha256("".join(map(sha256, made)).encode()).hexdigest()

    def _draw_loss(self) -> "Figure":
        from charlm.tracking import figures as plots

        return plots.loss(self.read_history(), self.read_metrics()["reference"])

    def _draw_next_char(self) -> "Figure":
        from charlm.tracking import figures as plots

        with self.next_char.open(encoding="utf-8", newline="") as file:
            return plots.next_char(csv.reader(file))


def _final(metrics: Metrics) -> dict[str, float]:
    """The final figures by MLflow's metric names; the losses are the last points of the curve already."""
    return {
        f"{name}/{split}": metrics[split][name]
        for split in ("train", "test")
        for name in ("bits_per_char", "perplexity")
    }
