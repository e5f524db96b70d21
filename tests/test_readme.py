"""The numbers in README.md and docs/how-it-works.md are the project's."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ladder import HEADER, REFERENCES
from charlm.config import TrainParams, load_params
from charlm.models import trainable_class
from charlm.random import generator
from charlm.summary import EXPLANATIONS
from charlm.text.collection import write
from charlm.text.corpus import Split, split_sizes
from charlm.text.vocabulary import Vocabulary
from charlm.training.history import Point
from charlm.training.loop import train

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text()
HOW = (PROJECT / "docs/how-it-works.md").read_text()
METRICS = json.loads((PROJECT / "data/evaluate/metrics.json").read_text())


def test_result_is_the_committed_one() -> None:
    expected = {name: f"{loss:.4f}" for name, loss in METRICS["reference"].items()}
    expected |= {f"{split} loss": f"{METRICS[split]['loss']:.4f}" for split in ("train", "test")}
    table = dict(re.findall(r"^\| `?([a-z_ ]+)`? \| ([0-9.]+) \|", HOW, re.MULTILINE))
    assert table == expected
    for name, explanation in EXPLANATIONS.items():
        assert f"| {METRICS['reference'][name]:.4f} | {explanation} |" in HOW
    assert f"| test loss {METRICS['test']['loss']:.4f} |" in HOW
    assert f"**test loss {METRICS['test']['loss']:.4f}**" in README


def test_ladder_is_that_of_the_recipes() -> None:
    """`make ladder` writes it; that a network comes to its figure again takes minutes, so it is not run here."""
    rows = re.findall(r"^\| .+ \(`(recipes/\w+\.yaml)`\) \| .+ \| ([0-9.]+) \|$", README, re.MULTILINE)
    assert {path for path, _ in rows} == {f"recipes/{path.name}" for path in (PROJECT / "recipes").glob("*.yaml")}
    for path, loss in rows:
        assert (
            f"est loss {loss} on the book" in (PROJECT / path).read_text()
            or f"on the book {loss}." in (PROJECT / path).read_text()
        )
    counted = dict(re.findall(r"^\| \*.+\* \(`(\w+)`\) \| \| \| \| \*([0-9.]+)\* \|$", README, re.MULTILINE))
    assert counted == {name: f"{METRICS['reference'][name]:.4f}" for name in REFERENCES}
    losses = [float(loss) for loss in re.findall(r"^\|.* \*?([0-9]\.[0-9]{4})\*? \|$", README, re.MULTILINE)]
    assert losses == sorted([float(loss) for loss in [*counted.values(), *dict(rows).values()]], reverse=True)
    assert HEADER in README


@pytest.mark.mirror
def test_both_experiments_on_the_book_give_the_numbers(mirror: Path, tmp_path: Path) -> None:
    shipped, longer = (load_params(PROJECT / name) for name in ("params.yaml", "recipes/bigram.yaml"))
    write(tmp_path / "book.txt", shipped.data.source, mirror=str(mirror), kept=tmp_path, sha256=shipped.data.sha256)
    text = (tmp_path / "book.txt").read_text(encoding="utf-8")
    vocabulary = Vocabulary.from_texts([text])[0]
    size, sizes = len(vocabulary), split_sizes(len(text), len(vocabulary), shipped.data.train_fraction)
    splits = [
        Split(name, tokens, size)
        for name, tokens in zip(("train", "test"), np.split(vocabulary.encode(text), [sizes[0]]), strict=True)
    ]
    assert f"| {len(text):,} tokens |" in HOW
    assert f"| {sizes[0]:,} to train, {sizes[1]:,} to test |" in HOW
    assert f"| {size} characters; {len(Vocabulary.from_texts([chr(0xFEFF) + text])[0])} in the notebook," in HOW
    assert f"| {size**2:,} weights |" in HOW

    def points(settings: TrainParams) -> list[Point]:
        model = trainable_class("bigram").initial(
            size, settings.block_size, generator(settings.seed, "weights"), settings.precision
        )
        return list(train(model, splits, settings, generator(settings.seed, "batches")))

    course = points(shipped.train)
    batches = [point.batch_loss for point in course if point.batch_loss is not None]
    assert f"| test loss {course[0].test_loss:.4f} before the first step |" in HOW
    assert f"{course[-1].test_loss:.4f}" == f"{METRICS['test']['loss']:.4f}"
    assert f"| loss of the last batch {batches[-1]:.4f} here, 4.37 there |" in HOW
    assert f"between {min(batches):.2f} and {max(batches):.2f}" in HOW
    loss = points(longer.train)[-1].test_loss
    assert f"It ends at a test loss of {loss:.4f}," in README
    assert f"test loss {loss:.4f} on the book" in (PROJECT / "recipes/bigram.yaml").read_text()
    assert abs(loss - METRICS["reference"]["bigram_counts"]) < 0.01
