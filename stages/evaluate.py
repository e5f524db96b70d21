"""Measure the checkpoint on both splits, exactly, and write its next-character probabilities."""

import csv
import json
from pathlib import Path

from charlm import evaluation
from charlm.files import atomic_write, write_json
from charlm.models import checkpoint
from charlm.text.corpus import load_splits
from charlm.text.vocabulary import Vocabulary
from stages import stage


@stage
def main(prepare: Path, train: Path, out: Path) -> None:
    vocabulary = Vocabulary.load(prepare / "vocabulary.json")
    model = checkpoint.load(train / "model.safetensors", vocabulary)
    splits = load_splits(prepare, len(vocabulary))
    references = json.loads((prepare / "references.json").read_text(encoding="utf-8"))
    write_json(out / "metrics.json", evaluation.evaluate(model, splits, references))
    tables = {
        "next_char.csv": evaluation.next_char_rows(model, splits[0], vocabulary.labels),
        "context.csv": evaluation.context_rows(model, splits[1]),
        "surprise.csv": evaluation.surprise_rows(model, splits[1], vocabulary.labels),
    }
    for name, rows in tables.items():
        with atomic_write(out / name) as path, path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
