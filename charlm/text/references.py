"""Losses to compare a model's loss with, from counts of the train split: from the uniform guess to Kneser-Ney.

`KneserNey` is the interpolated modified Kneser-Ney model of Chen and Goodman, "An Empirical Study of Smoothing
Techniques for Language Modeling" (1998, Harvard TR-10-98), with characters for words and without padding: near the
start of a text a character is predicted from the few before it.

Only n-grams that occur are stored, so nothing grows with the square of the vocabulary. Kneser-Ney needs the whole
text in memory; the other references read it block by block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from charlm.text.corpus import Split

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
ORDER = 6
MAX_CHARACTERS = 20_000_000
"""Longest text, both splits together, to get a Kneser-Ney model: half a minute and 1 GB, 3 GB if no 6-gram recurs."""
FALLBACK_DISCOUNTS = np.array([0, 0.5, 1, 1.5])
"""For counts of 0, 1, 2 and 3 or more where a text gives no estimates: those of KenLM's `--discount_fallback`."""
DENSE = 2**22
"""Pairs of characters that are counted in a table, which is faster; those of a larger vocabulary are sorted."""


def references(train: Split, test: Split, limit: int = MAX_CHARACTERS) -> dict[str, float]:
    """Losses in nats per character on `test`, given `train`; each has two characters at least.

    uniform: every character equally likely. unigram, bigram_counts: add-one counts of characters and of pairs.
    bigram_floor: the conditional entropy of the train split, the least train loss of any bigram. kneser_ney: absent if
    the splits have more than `limit` characters. Each is a mean over every character of a split but its first.
    """
    vocabulary_size = train.vocabulary_size
    (pairs, counts), (test_pairs, test_counts) = _count_pairs(train), _count_pairs(test)
    firsts, seconds = (np.bincount(half, counts, vocabulary_size) for half in np.divmod(pairs, vocabulary_size))  # (V,)
    test_firsts, test_seconds = np.divmod(test_pairs, vocabulary_size)
    known = np.append(counts, 0)[_find(pairs, test_pairs)]
    losses = {
        "uniform": math.log(vocabulary_size),
        "unigram": _mean_loss((seconds[test_seconds] + 1) / (len(train) - 1 + vocabulary_size), test_counts),
        "bigram_counts": _mean_loss((known + 1) / (firsts[test_firsts] + vocabulary_size), test_counts),
        "bigram_floor": _mean_loss(counts / firsts[pairs // vocabulary_size], counts),
    }
    if len(train) + len(test) <= limit:
        losses["kneser_ney"] = KneserNey(train.tokens, vocabulary_size).loss(test.tokens)
    return {name: round(loss, 6) + 0.0 for name, loss in losses.items()}


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order. Index -1 of the last two arrays is for an n-gram, or a context, that was not seen."""

    keys: Integers  # (n-grams,), ascending: index of the context * V + the last character
    discounted: Floats  # (n-grams + 1,): max(c - D(c), 0) / total of the context
    backoff: Floats  # (contexts + 1,): the weight of the lower order after each context


class KneserNey:
    """A model of n-grams of 1 to `order` characters, counted in `tokens` (N,), N >= 1; at most N characters.

    The highest order counts how often an n-gram occurs; each lower order counts the distinct characters before it.
    V^order does not fit in 64 bits, so an n-gram is numbered by its context, an (n - 1)-gram, and its last character.
    """

    def __init__(self, tokens: NDArray[Any], vocabulary_size: int, order: int = ORDER) -> None:
        self.vocabulary_size = vocabulary_size
        self._orders: list[_Order] = []
        grams, contexts = np.zeros(len(tokens) + 1, dtype=np.int64), 1  # the empty string, at every position
        keys = np.empty(0, dtype=np.int64)
        for n in range(1, min(order, len(tokens)) + 1):
            ends = (
                grams[:-1] * vocabulary_size + tokens[n - 1 :]
            )  # the n-grams that end at n - 1 ... N - 1: (N - n + 1,)
            longer_keys, longer, counts = np.unique(ends, return_inverse=True, return_counts=True)
            if n > 1:
                suffixes = np.empty(len(longer_keys), dtype=np.int64)
                suffixes[longer] = grams[1:]
                self._add_order(keys, np.bincount(suffixes, minlength=len(keys)), contexts)
                contexts = len(keys)
            keys, grams = longer_keys, longer
        self._add_order(keys, counts, contexts)

    def _add_order(self, keys: Integers, counts: Integers, contexts: int) -> None:
        """Add the next order: its n-grams `keys` (n-grams,), their `counts` (n-grams,) and its number of contexts."""
        prefixes = keys // self.vocabulary_size
        totals = np.bincount(prefixes, counts, contexts)  # (contexts,), 0 after what only begins the text
        discounts = _discounts(counts)[np.minimum(counts, 3)]  # (n-grams,)
        discounted = (counts - discounts) / np.maximum(totals, 1)[prefixes]
        backoff = np.bincount(prefixes, discounts, contexts) / np.maximum(totals, 1)
        backoff[totals == 0] = 1
        self._orders.append(_Order(keys, np.append(discounted, 0), np.append(backoff, 1)))

    def probabilities(self, context: ArrayLike) -> Floats:
        """The probability of each character after the tokens `context`, of any length: (V,)."""
        before = np.asarray(context, dtype=np.int64)[-len(self._orders) :]
        rows = np.empty((self.vocabulary_size, len(before) + 1), dtype=np.int64)
        rows[:, :-1], rows[:, -1] = before, np.arange(self.vocabulary_size)
        return self._score(rows)[:, -1]

    def loss(self, tokens: NDArray[Any]) -> float:
        """Mean loss in nats over `tokens` (N,), all but the first, each after those of `tokens` before it."""
        return _mean_loss(self._score(tokens)[1:])

    def _score(self, tokens: NDArray[Any]) -> Floats:
        """The probability of each of `tokens` (..., T) after those before it in its row: (..., T)."""
        scores = np.full(tokens.shape, 1 / self.vocabulary_size)
        contexts = np.zeros(tokens.shape, dtype=np.int64)
        for order in self._orders:
            grams = _find(order.keys, contexts * self.vocabulary_size + tokens)  # -1 after -1: its key is negative
            scores = order.discounted[grams] + order.backoff[contexts] * scores
            contexts[..., 1:], contexts[..., 0] = grams[..., :-1], -1
        return scores


def _discounts(counts: Integers) -> Floats:
    """What to subtract from a count of 0, 1, 2 and of 3 or more: (4,), estimated from counts of `counts`."""
    n = np.bincount(np.minimum(counts, 5), minlength=6)
    if n[1:5].all():
        y = n[1] / (n[1] + 2 * n[2])
        estimates = np.array([0, *(i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3))])
        if estimates[1:].min() > 0:
            return estimates
    return FALLBACK_DISCOUNTS


def _find(keys: Integers, wanted: Integers) -> Integers:
    """The index of each of `wanted` (...) in the ascending `keys`, -1 where it is missing: (...)."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, -1)


def _mean_loss(probabilities: Floats, counts: Integers | None = None) -> float:
    """Mean loss in nats of `probabilities`, weighted by `counts`."""
    return -float(np.average(np.log(probabilities), weights=counts))


def _count_pairs(split: Split) -> tuple[Integers, Integers]:
    """The distinct pairs of neighbours in `split`, as first * V + second, ascending, and their counts: (pairs,)."""
    if split.vocabulary_size**2 <= DENSE:
        pairs = np.flatnonzero(split.pairs)
        return pairs, split.pairs.ravel()[pairs]
    merged, pending, waiting = (np.empty(0, dtype=np.int64),) * 2, [], 0
    for block in split.overlapping_blocks():
        pending.append(np.unique(block[:-1] * split.vocabulary_size + block[1:], return_counts=True))
        waiting += len(pending[-1][0])
        if waiting > len(merged[0]):  # so that all merges together cost no more than a few sorts of all
            merged, pending, waiting = _merged([merged, *pending]), [], 0
    return _merged([merged, *pending])


def _merged(counted: Sequence[tuple[Integers, Integers]]) -> tuple[Integers, Integers]:
    """The sorted union of several lists of pairs, with the sums of their counts."""
    pairs, counts = (np.concatenate(arrays) for arrays in zip(*counted, strict=True))
    distinct, places = np.unique(pairs, return_inverse=True)
    return distinct, np.bincount(places, counts, len(distinct)).astype(np.int64)
