"""Reference losses, compared with loops over every position and with Kneser-Ney written with dictionaries."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.text import collection, corpus
from charlm.text.corpus import Split
from charlm.text.references import FALLBACK_DISCOUNTS, KneserNey, _discounts, references
from charlm.text.vocabulary import Vocabulary

V = 5
TALE = Path(__file__).parents[2] / "tale.txt"
TOKENS = st.lists(st.integers(0, V - 2), min_size=2, max_size=80).map(lambda tokens: np.array(tokens, dtype=np.uint8))
CONTEXTS = st.lists(st.integers(0, V - 1), max_size=8)  # V - 1 is in no text
ORDERS = st.integers(1, 6)


def of(train: np.ndarray, test: np.ndarray, size: int, **limit: int) -> dict[str, float]:
    """The references of two arrays of tokens."""
    return references(Split("train", train, size), Split("test", test, size), **limit)


def slow_kneser_ney(tokens: list[int], size: int, order: int) -> Callable[[tuple[int, ...], int], float]:
    """A function of a context and the character after it: its probability, straight from the definition."""
    order = min(order, len(tokens))
    grams = {n: [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)] for n in range(1, order + 1)}
    counts = {n: Counter(gram[1:] for gram in set(grams[n + 1])) for n in range(1, order)}
    counts[order] = Counter(grams[order])
    discounts = {}
    for n, table in counts.items():
        n1, n2, n3, n4 = (list(table.values()).count(i) for i in (1, 2, 3, 4))
        d = [0, 0.5, 1, 1.5]
        if n1 and n2 and n3 and n4:
            y = n1 / (n1 + 2 * n2)
            estimates = [0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
            d = estimates if min(estimates[1:]) > 0 else d
        discounts[n] = d

    def probability(context: tuple[int, ...], char: int, n: int = order) -> float:
        if n == 0:
            return 1 / size
        lower = probability(context, char, n - 1)
        seen = context[len(context) - n + 1 :]
        after = [counts[n][*seen, c] for c in range(size)] if len(context) >= n - 1 else [0]
        if sum(after) == 0:
            return lower
        taken = [discounts[n][min(count, 3)] for count in after]
        return (after[char] - taken[char] + sum(taken) * lower) / sum(after)

    return probability


# Kneser-Ney


@given(TOKENS, CONTEXTS, ORDERS)
def test_probabilities_are_a_distribution_after_any_context(tokens: np.ndarray, context: list[int], order: int) -> None:
    probabilities = KneserNey(tokens, V, order).probabilities(context)
    assert probabilities.shape == (V,)
    assert probabilities.min() > 0
    assert probabilities.sum() == pytest.approx(1, rel=1e-12)


@given(TOKENS, CONTEXTS, ORDERS)
def test_probabilities_are_those_of_the_definition(tokens: np.ndarray, context: list[int], order: int) -> None:
    slow = slow_kneser_ney(tokens.tolist(), V, order)
    expected = [slow(tuple(context), char) for char in range(V)]
    assert KneserNey(tokens, V, order).probabilities(context) == pytest.approx(expected, rel=1e-9)


@given(TOKENS, TOKENS, ORDERS)
def test_loss_is_the_mean_over_all_positions_but_the_first(train: np.ndarray, test: np.ndarray, order: int) -> None:
    model = KneserNey(train, V, order)
    losses = [-math.log(model.probabilities(test[:i])[test[i]]) for i in range(1, len(test))]
    assert model.loss(test) == pytest.approx(sum(losses) / len(losses), rel=1e-9)


@pytest.mark.parametrize("order", range(1, 7))
def test_loss_on_natural_text_is_that_of_the_definition(order: int) -> None:
    text = TALE.read_text(encoding="utf-8")[:3000]
    vocabulary = Vocabulary.from_texts([text])[0]
    train, test = np.split(vocabulary.encode(text), [2400])
    slow = slow_kneser_ney(train.tolist(), len(vocabulary), order)
    losses = [-math.log(slow(tuple(test[:i].tolist()), int(test[i]))) for i in range(1, len(test))]
    assert KneserNey(train, len(vocabulary), order).loss(test) == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def test_a_text_of_two_characters_is_worked_out_by_hand() -> None:
    # Of b: 1/2 + 1/2 * 1/2 = 3/4. Of b after a: 1/2 + 1/2 * 3/4 = 7/8. Nothing follows b.
    model = KneserNey(np.array([0, 1], dtype=np.uint8), 2)
    assert model.probabilities([]) == pytest.approx([1 / 4, 3 / 4])
    assert model.probabilities([0]) == pytest.approx([1 / 8, 7 / 8])
    assert model.probabilities([1, 1]) == pytest.approx([1 / 4, 3 / 4])


@pytest.mark.parametrize("size", [1, 2, 4500, 1_114_112])
@pytest.mark.parametrize("length", [2, 3, 1000])
def test_one_repeated_character_gives_finite_losses(size: int, length: int) -> None:
    tokens = np.full(length, size - 1, dtype=np.min_scalar_type(size - 1))
    same, other = KneserNey(tokens, size).loss(tokens), KneserNey(tokens, size).loss(np.zeros_like(tokens))
    assert 0 <= same <= other
    assert math.isfinite(other)
    assert all(math.isfinite(loss) for loss in of(tokens, tokens, size).values())


@pytest.mark.parametrize(
    ("counts", "discounts"),
    [
        ([0, 1, 1, 1, 1, 2, 2, 3, 4, 9], [0, 0.5, 1.25, 1]),  # Y = 4 / (4 + 2 * 2)
        ([1, 1, 1, 1, 2, 2, 3, 9], FALLBACK_DISCOUNTS),  # nothing occurs four times
        ([1, 1, 1, 1, 2, 2, 3, 4, 4], FALLBACK_DISCOUNTS),  # the last would be 3 - 4 * 1/2 * 2 = -1
        ([0, 0], FALLBACK_DISCOUNTS),
    ],
)
def test_discounts_are_estimated_or_those_to_fall_back_on(counts: list[int], discounts: list[float]) -> None:
    assert _discounts(np.array(counts)) == pytest.approx(discounts)


@pytest.mark.mirror
def test_the_book_gives_1_457(mirror: Path, tmp_path: Path) -> None:
    collection.write(tmp_path / "book.txt", ["gutenberg:22566"], mirror=str(mirror), kept=tmp_path)
    text = (tmp_path / "book.txt").read_text(encoding="utf-8")
    vocabulary = Vocabulary.from_texts([text])[0]
    train, test = np.split(vocabulary.encode(text), [int(0.8 * len(text))])
    assert of(train, test, len(vocabulary))["kneser_ney"] == pytest.approx(1.457, abs=0.001)


# The others


@given(TOKENS, TOKENS)
def test_references_are_those_of_a_loop(train: np.ndarray, test: np.ndarray) -> None:
    pairs = Counter(pairwise(train.tolist()))
    firsts, seconds = Counter(train[:-1].tolist()), Counter(train[1:].tolist())
    positions = list(pairwise(test.tolist()))
    unigram = [math.log((seconds[b] + 1) / (len(train) - 1 + V)) for _, b in positions]
    bigram = [math.log((pairs[a, b] + 1) / (firsts[a] + V)) for a, b in positions]
    floor = [math.log(pairs[a, b] / firsts[a]) for a, b in pairwise(train.tolist())]
    assert of(train, test, V) == pytest.approx(
        {
            "uniform": math.log(V),
            "unigram": -sum(unigram) / len(unigram),
            "bigram_counts": -sum(bigram) / len(bigram),
            "bigram_floor": -sum(floor) / len(floor),
            "kneser_ney": KneserNey(train, V).loss(test),
        },
        abs=0.6e-6,  # they are rounded to six decimals
    )


@given(TOKENS, TOKENS, st.integers(1, 80), st.sampled_from([0, V**2]))
def test_neither_the_size_of_a_block_nor_the_way_of_counting_changes_a_number(
    train: np.ndarray, test: np.ndarray, block: int, dense: int
) -> None:
    expected = of(train, test, V)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "BLOCK", block)
        patch.setattr("charlm.text.references.DENSE", dense)
        assert of(train, test, V) == expected


def test_kneser_ney_is_left_out_above_the_limit() -> None:
    train, test = np.zeros(6, dtype=np.uint8), np.zeros(4, dtype=np.uint8)
    assert "kneser_ney" in of(train, test, V, limit=10)
    assert list(of(train, test, V, limit=9)) == ["uniform", "unigram", "bigram_counts", "bigram_floor"]


def test_a_vocabulary_of_any_size_costs_nothing_quadratic() -> None:
    size = 1_114_112  # all code points: their pairs would take 9 TB
    tokens = np.random.default_rng(0).integers(0, size, 10_000).astype(np.uint32)
    assert of(tokens[:8000], tokens[8000:], size)["kneser_ney"] == pytest.approx(math.log(size), rel=0.1)


@pytest.mark.parametrize("dense", [0, V**2])
def test_a_memory_map_is_read_in_constant_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense: int) -> None:
    monkeypatch.setattr("charlm.text.references.DENSE", dense)
    np.save(tmp_path / "train.npy", np.random.default_rng(0).integers(0, V, 2**24, dtype=np.uint8))
    split = Split.load(tmp_path / "train.npy", V)
    before = psutil.Process().memory_info().rss
    found = references(split, split, limit=0)
    assert found["bigram_floor"] == pytest.approx(math.log(V), abs=1e-5)
    assert psutil.Process().memory_info().rss - before < 2**23  # without the 16 MiB of the file
