"""Figures of a model and their references, held against loops over every position and logarithms one by one."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from charlm.evaluation import evaluate, figures, mean_loss, next_char_rows, references, to_json
from charlm.models.bigram import BigramLanguageModel
from charlm.random import seeded_generator
from charlm.text.corpus import pair_counts

V = 5
TOKENS = st.lists(st.integers(0, V - 1), min_size=2, max_size=80).map(lambda tokens: np.array(tokens, dtype=np.uint8))
SEEDS = st.integers(0, 2**32)


def random_model(seed: int, size: int = V) -> BigramLanguageModel:
    return BigramLanguageModel(size, generator=seeded_generator(seed, "weights"))


def uniform_model(size: int) -> BigramLanguageModel:
    model = BigramLanguageModel(size)
    torch.nn.init.zeros_(model.table)
    return model


# Losses


@given(TOKENS, SEEDS)
def test_loss_is_the_mean_cross_entropy_over_every_position(tokens: np.ndarray, seed: int) -> None:
    table = random_model(seed).table.detach()
    contexts, targets = torch.from_numpy(tokens[:-1].astype(np.int64)), torch.from_numpy(tokens[1:].astype(np.int64))
    as_stored = table.float().double()
    loss = mean_loss(table, torch.from_numpy(pair_counts(tokens, V)))
    assert loss == pytest.approx(F.cross_entropy(as_stored[contexts], targets).item(), rel=1e-12)
    assert loss == mean_loss(as_stored, torch.from_numpy(pair_counts(tokens, V)))


@given(TOKENS, TOKENS)
def test_references_are_those_of_a_loop(train: np.ndarray, test: np.ndarray) -> None:
    pairs = Counter(pairwise(train.tolist()))
    firsts, seconds = Counter(train[:-1].tolist()), Counter(train[1:].tolist())
    positions = list(pairwise(test.tolist()))
    unigram = [math.log((seconds[b] + 1) / (len(train) - 1 + V)) for _, b in positions]
    bigram = [math.log((pairs[a, b] + 1) / (firsts[a] + V)) for a, b in positions]
    floor = [math.log(pairs[a, b] / firsts[a]) for a, b in pairwise(train.tolist())]
    assert references(pair_counts(train, V), pair_counts(test, V)) == pytest.approx(
        {
            "uniform": math.log(V),
            "unigram": -sum(unigram) / len(unigram),
            "bigram_counts": -sum(bigram) / len(bigram),
            "bigram_floor": -sum(floor) / len(floor),
        },
        abs=0.6e-6,  # they are rounded to six decimals
    )


@given(TOKENS, SEEDS)
def test_no_model_goes_below_the_floor(tokens: np.ndarray, seed: int) -> None:
    counts = pair_counts(tokens, V)
    floor = references(counts, counts)["bigram_floor"]
    assert mean_loss(random_model(seed).table, torch.from_numpy(counts)) >= floor - 1e-6


def test_the_model_of_the_counts_stands_on_the_floor() -> None:
    counts = np.array([[3, 1], [2, 5]])
    loss = mean_loss(torch.from_numpy(np.log(counts)), torch.from_numpy(counts))
    assert loss == pytest.approx(references(counts, counts)["bigram_floor"], abs=1e-6)


@pytest.mark.parametrize("size", [2, 5, 80])
def test_a_model_that_knows_nothing_scores_uniform(size: int) -> None:
    counts = torch.from_numpy(pair_counts(np.arange(size, dtype=np.uint8), size))
    assert mean_loss(uniform_model(size).table, counts) == pytest.approx(math.log(size), rel=1e-14)


# metrics.json


@pytest.mark.parametrize(
    ("loss", "bits_per_char", "perplexity"),
    [(0.0, 0.0, 1.0), (math.log(2), 1.0, 2.0), (math.log(80), 6.321928, 80.0), (1.23456789, 1.781105, 3.436893)],
)
def test_figures_are_a_loss_in_three_units(loss: float, bits_per_char: float, perplexity: float) -> None:
    assert figures(loss) == {"loss": round(loss, 6), "bits_per_char": bits_per_char, "perplexity": perplexity}


def test_metrics_are_figures_of_both_splits_and_references() -> None:
    model, train, test = random_model(1, 2), np.array([[3, 1], [2, 5]]), np.array([[1, 0], [0, 2]])
    assert evaluate(model, train, test) == {
        "train": figures(mean_loss(model.table, torch.from_numpy(train))),
        "test": figures(mean_loss(model.table, torch.from_numpy(test))),
        "reference": references(train, test),
    }


def test_metrics_json_is_this_text() -> None:
    train, test = pair_counts(np.array([0, 1, 1, 0]), 2), pair_counts(np.array([0, 1, 0]), 2)
    assert to_json(evaluate(uniform_model(2), train, test)) == (
        "{\n"
        '  "train": {\n    "loss": 0.693147,\n    "bits_per_char": 1.0,\n    "perplexity": 2.0\n  },\n'
        '  "test": {\n    "loss": 0.693147,\n    "bits_per_char": 1.0,\n    "perplexity": 2.0\n  },\n'
        '  "reference": {\n'
        '    "uniform": 0.693147,\n'
        '    "unigram": 0.713558,\n'  # -(ln 2/5 + ln 3/5) / 2
        '    "bigram_counts": 0.549306,\n'  # -(ln 2/3 + ln 1/2) / 2
        '    "bigram_floor": 0.462098\n'  # -(ln 1 + 2 ln 1/2) / 3
        "  }\n"
        "}\n"
    )


# next_char.csv


def test_next_char_rows_are_these() -> None:
    counts = np.array([[0, 7], [1, 20]])
    assert list(next_char_rows(uniform_model(2), counts, ["\\n", ","])) == [
        ("char", "next_char", "probability", "train_count"),
        ("\\n", "\\n", "0.500000", 0),
        ("\\n", ",", "0.500000", 7),
        (",", "\\n", "0.500000", 1),
        (",", ",", "0.500000", 20),
    ]


def test_next_char_rows_have_every_pair_with_its_probability_and_count() -> None:
    labels = ["space", '"', ",", "a", "é"]
    model = random_model(2)
    counts = pair_counts(np.random.default_rng(0).integers(0, V, 300), V)
    _, *rows = next_char_rows(model, counts, labels)
    assert [row[:2] for row in rows] == [(a, b) for a in labels for b in labels]
    assert [count for *_, count in rows] == counts.flatten().tolist()
    probabilities = np.array([float(probability) for _, _, probability, _ in rows]).reshape(V, V)
    assert probabilities == pytest.approx(model.next_char_probabilities().numpy(), abs=0.6e-6)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(V), abs=V * 0.5e-6)
