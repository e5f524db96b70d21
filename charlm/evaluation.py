"""How good a model is, exactly: every position of a split once, and the numbers that give it meaning.

Losses are in nats per character, sums divided once, never a mean of means of batches. A model whose context is
one character depends on a split only through its pair counts, so a split of any size costs one (V, V) product.
Bits per character and perplexity as in Jurafsky and Martin, "Speech and Language Processing", chapter 3.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.models.bigram import BigramLanguageModel

PairCounts = NDArray[np.int64]
DIGITS = 6
"""Decimals of a published figure: far fewer than float64 holds, so the last bits of a sum never show."""
LARGEST_LOSS = math.log(sys.float_info.max)
"""Nats per character, about 709: above it the perplexity is no longer a float64."""


def mean_loss(table: Tensor, pairs: Tensor) -> float:
    """Mean cross-entropy in nats per character of the logits `table` (V, V) over the counted `pairs` (V, V).

    Computed in float64 from the logits in float32, which is what a checkpoint holds: a model scores the same
    while it trains and when it is read back.
    """
    logits = table.detach().cpu().float().double()
    log_probabilities = torch.log_softmax(logits, dim=-1)  # (V, V)
    return -float((pairs * log_probabilities).sum() / pairs.sum())


def figures(loss: float) -> dict[str, float]:
    """A loss in nats per character and what it is in bits per character and as a perplexity."""
    return {
        "loss": round(loss, DIGITS),
        "bits_per_char": round(loss / math.log(2), DIGITS),
        "perplexity": round(math.exp(loss), DIGITS),
    }


def references(train: PairCounts, test: PairCounts) -> dict[str, float]:
    """Losses in nats per character to hold a model's against, from pair counts of shape (V, V).

    uniform: every character equally likely. unigram and bigram_counts: add-one counts of the train split's pairs, of
    their second characters alone and of both, scored on the test split. bigram_floor: the conditional entropy of the
    train split, below which no bigram's train loss goes.
    """
    size = len(train)
    unigram = np.broadcast_to(train.sum(axis=0) + 1, train.shape)
    losses = {
        "uniform": math.log(size),
        "unigram": _counts_loss(unigram, test),
        "bigram_counts": _counts_loss(train + 1, test),
        "bigram_floor": _counts_loss(train, train),
    }
    return {name: round(loss, DIGITS) + 0.0 for name, loss in losses.items()}


def _counts_loss(model: PairCounts, pairs: PairCounts) -> float:
    """Mean loss over `pairs` (V, V) when the rows of the counts `model` (V, V), divided by their sums, predict."""
    seen = pairs > 0
    probabilities = model / np.maximum(model.sum(axis=1, keepdims=True), 1)  # (V, V)
    return -float((pairs[seen] * np.log(probabilities[seen])).sum() / pairs.sum())


def evaluate(model: BigramLanguageModel, train: PairCounts, test: PairCounts) -> dict[str, dict[str, float]]:
    """The content of metrics.json for `model` on the pair counts (V, V) of the two splits."""
    return {
        "train": figures(mean_loss(model.table, torch.from_numpy(train))),
        "test": figures(mean_loss(model.table, torch.from_numpy(test))),
        "reference": references(train, test),
    }


def to_json(metrics: dict[str, dict[str, float]]) -> str:
    """The text of metrics.json."""
    return json.dumps(metrics, indent=2) + "\n"


def next_char_rows(
    model: BigramLanguageModel, train: PairCounts, labels: Sequence[str]
) -> Iterator[tuple[str, str, str, int | str]]:
    """The rows of next_char.csv, the first of them its header, then one for each pair of characters.

    Their labels, the probability of the next one, and how often it stands in the train split.
    """
    yield "char", "next_char", "probability", "train_count"
    for char, probabilities, counts in zip(labels, model.next_char_probabilities(), train, strict=True):  # (V,) each
        for next_char, probability, count in zip(labels, probabilities.tolist(), counts.tolist(), strict=True):
            yield char, next_char, f"{probability:.{DIGITS}f}", count
