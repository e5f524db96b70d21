"""How good a model is: the figures of metrics.json, and its next-character probabilities.

Losses are in nats per character, of every position of a split once. Bits per character and perplexity as in Jurafsky
and Martin, "Speech and Language Processing", chapter 3.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from charlm.models.predictor import Predictor
from charlm.text.corpus import Split

DIGITS = 6
"""Decimals of a published figure: far fewer than float64 has, so the last bits of a sum never show."""
SURPRISED = 600
"""Characters of the test split that surprise.csv covers at most."""
MOST_FREQUENT = 100
"""Characters that next_char.csv covers at most: its size grows with their square."""


def figures(loss: float) -> dict[str, float]:
    """A loss in nats per character and what it is in bits per character and as a perplexity."""
    return {
        "loss": round(loss, DIGITS),
        "bits_per_char": round(loss / math.log(2), DIGITS),
        "perplexity": round(float(Decimal(loss).exp()), DIGITS),
    }


def evaluate(
    model: Predictor, splits: Sequence[Split], references: Mapping[str, float]
) -> dict[str, Mapping[str, float]]:
    """The content of metrics.json: figures of `model` on each of `splits`, and the `references` beside them."""
    return {split.name: figures(model.loss_over(split)) for split in splits} | {"reference": references}


def context_rows(model: Predictor, test: Split) -> Iterator[tuple[str | int, str]]:
    """The rows of context.csv, the first its header: the mean loss by how many characters a prediction has seen."""
    yield "characters_seen", "loss"
    for seen, loss in enumerate(model.loss_by_context(test), start=1):
        yield seen, f"{loss:.{DIGITS}f}"


def surprise_rows(model: Predictor, test: Split, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The rows of surprise.csv, the first its header: the first SURPRISED characters of `test`, each with its bits."""
    yield "char", "bits"
    start = Split(test.name, test.tokens[: SURPRISED + 1], test.vocabulary_size)
    for token, loss in zip(start.tokens[1:], model.position_losses(start), strict=True):
        yield labels[token], f"{loss / math.log(2):.{DIGITS}f}"


def next_char_rows(model: Predictor, train: Split, labels: Sequence[str]) -> Iterator[tuple[str, str, str, int | str]]:
    """The rows of next_char.csv, the first of them its header, then one for each pair of frequent characters.

    Their `labels` (V,), the probability of the second right after the first alone, and how often the train split has
    the pair. Of a large vocabulary only the MOST_FREQUENT characters of the train split are covered.
    """
    yield "char", "next_char", "probability", "train_count"
    frequent, counts = train.frequent_pairs(MOST_FREQUENT)  # (F,), (F, F)
    probabilities = model.next_char_probabilities(frequent[:, None])[:, frequent]  # (F, F)
    for row, char in enumerate(frequent):
        for column, next_char in enumerate(frequent):
            probability = f"{probabilities[row, column]:.{DIGITS}f}"
            yield labels[char], labels[next_char], probability, int(counts[row, column])
