"""The figures of a model and the rows of the tables that evaluate writes."""

import math

import numpy as np
import pytest
import torch

from charlm.evaluation import MOST_FREQUENT, SURPRISED, context_rows, evaluate, figures, next_char_rows, surprise_rows
from charlm.models.base import LanguageModel
from charlm.models.predictor import Predictor
from charlm.models.table import BigramTable
from charlm.random import generator
from charlm.text.corpus import Split
from tests.models_for_tests import TEST, TRAIN, Mean, V, table


def of(tokens: "list[int] | np.ndarray", size: int) -> Split:
    return Split("train", np.array(tokens, dtype=np.uint16), size)


def uniform(size: int) -> BigramTable:
    return BigramTable(np.zeros((size, size)))


# metrics.json


@pytest.mark.parametrize(
    ("loss", "bits_per_char", "perplexity"),
    [(0.0, 0.0, 1.0), (math.log(2), 1.0, 2.0), (math.log(80), 6.321928, 80.0), (1.23456789, 1.781105, 3.436893)],
)
def test_figures_are_a_loss_in_three_units(loss: float, bits_per_char: float, perplexity: float) -> None:
    assert figures(loss) == {"loss": round(loss, 6), "bits_per_char": bits_per_char, "perplexity": perplexity}


def test_metrics_are_figures_of_both_splits_and_references() -> None:
    assert evaluate(table(), [TRAIN, TEST], {"uniform": 1.0}) == {
        "train": figures(table().loss_over(TRAIN)),
        "test": figures(table().loss_over(TEST)),
        "reference": {"uniform": 1.0},
    }


@pytest.mark.parametrize("size", [2, 5, 80])
def test_a_model_that_knows_nothing_scores_uniform(size: int) -> None:
    assert uniform(size).loss_over(of(np.arange(size), size)) == pytest.approx(math.log(size), rel=1e-14)


# next_char.csv


def test_next_char_rows_are_these() -> None:
    assert list(next_char_rows(uniform(2), of([1, 0, 1, 1, 1], 2), ["\\n", ","])) == [
        ("char", "next_char", "probability", "train_count"),
        ("\\n", "\\n", "0.500000", 0),
        ("\\n", ",", "0.500000", 1),
        (",", "\\n", "0.500000", 1),
        (",", ",", "0.500000", 2),
    ]


def test_next_char_rows_have_every_pair_with_its_probability_and_count() -> None:
    labels = ["space", '"', ",", "a", "é", "z", "ß"]
    _, *rows = next_char_rows(table(), TRAIN, labels)
    assert [row[:2] for row in rows] == [(a, b) for a in labels for b in labels]
    assert [count for *_, count in rows] == TRAIN.pairs.flatten().tolist()
    probabilities = np.array([float(probability) for _, _, probability, _ in rows]).reshape(V, V)
    assert probabilities == pytest.approx(table().next_char_probabilities(np.arange(V)[:, None]), abs=0.6e-6)


def test_next_char_rows_of_a_large_vocabulary_are_those_of_its_most_frequent_characters() -> None:
    """They used to grow with its square: 385 MB for a Chinese novel."""
    size = 1000
    train = of([*range(size), *range(300, 400), *range(300, 400)], size)
    _, *rows = next_char_rows(table(size), train, [str(token) for token in range(size)])
    assert len(rows) == MOST_FREQUENT**2
    assert {row[0] for row in rows} == {row[1] for row in rows} == {str(token) for token in range(300, 400)}
    probability = table(size).next_char_probabilities(np.array([[300]]))[0, 301]
    assert rows[1] == ("300", "301", f"{probability:.6f}", 3)


# context.csv and surprise.csv


def whole_context() -> LanguageModel:
    """A model of more than one character, in float64."""
    return Mean(V, 8, generator(1, "weights")).eval()


def test_context_rows_have_the_mean_loss_of_each_place_in_a_window() -> None:
    model = whole_context()
    header, *rows = context_rows(model, TEST)
    windows = np.concatenate([windows for windows, _ in TEST.blocks(8)])
    assert header == ("characters_seen", "loss")
    assert [seen for seen, _ in rows] == list(range(1, 9))
    for seen, loss in rows:
        places = torch.from_numpy(windows[:, : seen + 1])
        logits = model(places[:, :-1])[0][:, -1]
        expected = torch.nn.functional.cross_entropy(logits, places[:, -1]).item()
        assert float(loss) == pytest.approx(expected, abs=0.6e-6)
    flat = {loss for _, loss in list(context_rows(table(), TEST))[1:]}
    assert flat == {f"{table().loss_over(TEST):.6f}"}


@pytest.mark.parametrize("model", [table(), whole_context()], ids=["bigram", "of the whole context"])
def test_surprise_rows_are_the_first_characters_with_their_bits(model: Predictor) -> None:
    labels = [str(token) for token in range(V)]
    header, *rows = surprise_rows(model, TEST, labels)
    assert header == ("char", "bits")
    assert [char for char, _ in rows] == [labels[token] for token in TEST.tokens[1:]]
    mean = sum(float(bits) for _, bits in rows) / len(rows)
    assert mean * math.log(2) == pytest.approx(model.loss_over(TEST), abs=1e-6)
    long = Split("test", np.tile(TEST.tokens, 10), V)
    assert len(list(surprise_rows(model, long, labels))) == SURPRISED + 1
