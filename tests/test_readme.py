"""The README's numbers are the project's."""

import json
import re
from pathlib import Path

import pytest

from charlm.config import load_params
from charlm.models.bigram import BigramLanguageModel
from charlm.random import seeded_generator
from charlm.summary import EXPLANATIONS
from charlm.text import collection
from charlm.text.corpus import split
from charlm.text.vocabulary import Vocabulary
from charlm.training.loop import train

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text()
METRICS = json.loads((PROJECT / "data/evaluate/metrics.json").read_text())


def test_result_is_the_committed_one() -> None:
    expected = {name: f"{loss:.4f}" for name, loss in METRICS["reference"].items()}
    expected |= {f"{split} loss": f"{METRICS[split]['loss']:.4f}" for split in ("train", "test")}
    table = dict(re.findall(r"^\| \**`?([a-z_ ]+)`?\** \| \**([0-9.]+)\** \|", README, re.MULTILINE))
    assert table == expected
    for name, explanation in EXPLANATIONS.items():
        assert f"| {METRICS['reference'][name]:.4f} | {explanation} |" in README
    assert f"| test loss {METRICS['test']['loss']:.4f} |" in README


def test_second_experiment_is_set_up_with_known_params() -> None:
    assert second_experiment().keys() == {"learning_rate", "batch_size", "block_size", "max_iters"}


def second_experiment() -> dict[str, float]:
    """What the README's second experiment changes of the section train."""
    command = next(line for line in README.splitlines() if line.startswith("dvc exp run --name longer"))
    return {key: json.loads(value) for key, value in re.findall(r"-S train\.([a-z_]+)=([0-9.]+)", command)}


@pytest.mark.mirror
def test_both_experiments_on_the_book_give_the_numbers(mirror: Path, tmp_path: Path) -> None:
    params = load_params(PROJECT / "params.yaml")
    data, book = params.data, tmp_path / "book.txt"
    collection.write(book, data.source, kept=tmp_path / "texts", sha256=data.sha256, mirror=str(mirror))
    text = book.read_text(encoding="utf-8")
    vocabulary = Vocabulary.from_text(text)
    tokens, sizes = vocabulary.encode(text), split(len(text), len(vocabulary), params.data.train_fraction)
    corpus = tokens[: sizes[0]], tokens[sizes[0] :]
    assert f"| {len(text):,} tokens |" in README
    assert f"| {sizes[0]:,} to train, {sizes[1]:,} to test |" in README
    assert f"| {len(vocabulary)} characters; {len(Vocabulary.from_text(chr(0xFEFF) + text))} in the notebook," in README
    assert f"| {len(vocabulary) ** 2:,} weights |" in README

    def points(**changes: float) -> list[float | None]:
        settings = params.train.model_copy(update=changes)
        model = BigramLanguageModel(len(vocabulary), generator=seeded_generator(settings.seed, "weights"))
        course = list(train(model, *corpus, settings, seeded_generator(settings.seed, "batches")))
        batch = [point.batch_loss for point in course if point.batch_loss is not None]
        return [course[0].test_loss, course[-1].test_loss, batch[-1], min(batch), max(batch)]

    start, end, last, lowest, highest = points()
    assert f"| test loss {start:.4f} before the first step |" in README
    assert f"{end:.4f}" == f"{METRICS['test']['loss']:.4f}"
    assert f"| loss of the last batch {last:.4f} here, 4.37 there |" in README
    assert f"between {lowest:.2f} and {highest:.2f}" in README
    _, longer, *_ = points(**second_experiment())
    assert f"It ends at a test loss of {longer:.4f}," in README
    assert abs(longer - METRICS["reference"]["bigram_counts"]) < 0.02
