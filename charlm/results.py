"""The files that the stages have written under data/, read back."""

import hashlib
import json
from collections import Counter
from pathlib import Path

from charlm.errors import CharlmError
from charlm.files import sha256
from charlm.training.history import Point, from_csv

Metrics = dict[str, dict[str, float]]
MARKS = {"space": " ", "\\n": "↵"}
"""How the labels of surprise.csv look in a text; all others look as they are."""


class Results:
    """The files of a finished pipeline in the folder `data`; CharlmError if one is missing."""

    def __init__(self, data: Path) -> None:
        self.book = data / "download/book.txt"
        self.sources = data / "download/sources.json"
        """Not there in results from before it was written."""
        self.vocabulary = data / "prepare/vocabulary.json"
        self.tokens = {split: data / f"prepare/{split}.npy" for split in ("train", "test")}
        self.checkpoint = data / "train/model.safetensors"
        self.history = data / "train/history.csv"
        self.metrics = data / "evaluate/metrics.json"
        self.next_char = data / "evaluate/next_char.csv"
        self.context = data / "evaluate/context.csv"
        self.surprise = data / "evaluate/surprise.csv"
        self.samples = tuple(data / f"sample/{name}.txt" for name in ("untrained", "trained"))
        evaluated = (self.metrics, self.next_char, self.context, self.surprise)
        self._of_training = (self.checkpoint, self.history, *evaluated, *self.samples)
        for path in (self.book, self.vocabulary, *self.tokens.values(), *self._of_training):
            if not path.is_file():
                raise CharlmError(
                    f"{path} is missing.", fix="`dvc repro` creates it; `dvc pull` fetches it if a remote has it."
                )

    def read_metrics(self) -> Metrics:
        """The content of metrics.json."""
        content: Metrics = json.loads(self.metrics.read_text(encoding="utf-8"))
        return content

    def read_encodings(self) -> Counter[str]:
        """How many texts had each encoding where they came from, the most frequent first."""
        texts = json.loads(self.sources.read_text(encoding="utf-8")) if self.sources.is_file() else []
        return Counter(dict(Counter(text["encoding"] for text in texts).most_common()))

    def read_history(self) -> list[Point]:
        """The points of history.csv."""
        return from_csv(self.history.read_text(encoding="utf-8"))

    def read_sample(self) -> str:
        """The text from the trained model."""
        return self.samples[1].read_text(encoding="utf-8")

    def digest(self) -> str:
        """SHA-256 over the digests of all files from the stages after prepare."""
        return hashlib.sha256("".join(map(sha256, self._of_training)).encode()).hexdigest()
