"""Measure the checkpoint on both splits, exactly, and lay its next-character probabilities open."""

import csv
from pathlib import Path

import click

from charlm import evaluation, sources
from charlm.files import atomic_write, write_text
from charlm.models.checkpoint import load_checkpoint
from charlm.text.corpus import load_tokens, pair_counts
from charlm.text.vocabulary import Vocabulary


@click.command(help=__doc__)
@click.argument("prepare", type=click.Path(path_type=Path))
@click.argument("train", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(prepare: Path, train: Path, out: Path) -> None:
    code = sources.digests()
    vocabulary = Vocabulary.load(prepare / "vocabulary.json")
    model = load_checkpoint(train / "model.safetensors", vocabulary)
    counts = [pair_counts(load_tokens(prepare / f"{part}.npy"), len(vocabulary)) for part in ("train", "test")]
    write_text(out / "metrics.json", evaluation.to_json(evaluation.evaluate(model, *counts)))
    with atomic_write(out / "next_char.csv") as path, path.open("w", encoding="utf-8", newline="") as file:
        rows = evaluation.next_char_rows(model, counts[0], vocabulary.labels)
        csv.writer(file, lineterminator="\n").writerows(rows)
    sources.require_unchanged(code)


if __name__ == "__main__":
    main()
