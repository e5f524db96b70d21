"""A trained bigram: its table of logits in NumPy, and its closed forms.

Evaluating and sampling it needs no torch. The trainable bigram (`charlm.models.bigram`) hands these questions to it.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import accumulate
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from charlm.exact.elementary import exp, log, sum_of_fractions, sum_on_grid, total
from charlm.models.predictor import Floats, Index, Precision, cumulative, draw, log_softmax, require_shapes, softmax
from charlm.text.corpus import Split

_ROWS = 512  # of a large table that are measured together
WEIGHT = "token_embedding_table.weight"
"""The name of the table among the weights, as in the notebook."""


def loss_and_gradient(table: NDArray[np.float32], contexts: Index, targets: Index) -> tuple[float, NDArray[np.float32]]:
    """The mean loss of pairs of characters, and its gradient by the `table` (V, V): exact, whatever their order.

    The gradient of a row is (how often it occurs × its softmax - its counts) / how many pairs there are: whole numbers,
    and one rounding for each operation.
    """
    size, count, contexts, targets = len(table), contexts.size, contexts.ravel(), targets.ravel()
    occurrences = np.bincount(contexts, minlength=size)
    rows = np.flatnonzero(occurrences)  # (R,)
    shifted = table[rows]  # (R, V)
    shifted -= shifted.max(axis=-1, keepdims=True)
    e = exp(shifted).astype(np.float64)
    sums = sum_of_fractions(e)  # (R, 1)
    e /= sums
    row = np.empty(size, dtype=np.int64)
    row[rows] = np.arange(len(rows))
    row = row[contexts]  # (N,)
    e *= occurrences[rows, None]
    e -= np.bincount(row * size + targets, minlength=e.size).reshape(e.shape)
    e /= count
    gradient = np.zeros_like(table)
    gradient[rows] = e
    losses = log(sums)[row, 0] - shifted[row, targets]
    return float(sum_on_grid(losses)[0]) / count, gradient


class BigramTable:
    """Logits (V, V), float64: row the present character, column the next one."""

    def __init__(self, table: NDArray[np.float64], block_size: int = 1) -> None:
        self.table = table
        self.block_size = block_size

    @classmethod
    def initial(
        cls,
        vocabulary_size: int,
        block_size: int,
        rng: np.random.Generator,
        precision: Precision | None = None,
        **settings: Any,  # noqa: ARG003 a bigram has none
    ) -> Self:
        """A table of draws from N(0, 1); for `exact` rounded to float32, as it learns in."""
        table = rng.standard_normal((vocabulary_size, vocabulary_size))
        return cls(table.astype(np.float32).astype(np.float64) if precision == "exact" else table, block_size)

    def load_weights(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the `weights` of a checkpoint; ValueError when they are not those of a table of this size."""
        require_shapes({name: array.shape for name, array in weights.items()}, {WEIGHT: self.table.shape})
        self.table = weights[WEIGHT].astype(np.float64)

    def loss_over(self, split: Split) -> float:
        """Mean cross-entropy over every position of `split` but the first, which depends on its pairs alone."""
        losses = []
        for start in range(0, len(self.table), _ROWS):
            counts = split.pairs[start : start + _ROWS]
            losses.append((counts * log_softmax(self.table[start : start + _ROWS]))[counts > 0])
        return -total(np.concatenate(losses)) / (len(split) - 1)

    def loss_by_context(self, split: Split) -> Floats:
        """The same however many characters it has seen: (block_size,)."""
        return np.full(self.block_size, self.loss_over(split))

    def position_losses(self, split: Split) -> Floats:
        """The loss of each position of a short `split` but the first: (N - 1,)."""
        return -log_softmax(self.table)[split.tokens[:-1], split.tokens[1:]]

    def next_char_probabilities(self, index: Index, temperature: float = 1.0) -> Floats:
        """Probability of each character after each sequence of `index` (B, T), of which the last one counts: (B, V)."""
        return softmax(self.table[index[:, -1]], temperature)

    def generate(self, index: Index, n: int, temperature: float, rng: np.random.Generator) -> Index:
        """Each sequence of `index` (B, T) and `n` characters after it: (B, T + n); see `Predictor`."""
        return np.concatenate([index, *self.continuation(index, n, temperature, rng)], axis=1)

    def continuation(self, index: Index, n: int, temperature: float, rng: np.random.Generator) -> Iterator[Index]:
        """The `n` characters after each sequence of `index` (B, T), all at once (B, n); see `Predictor`.

        A step costs the same however long the text has grown. One for all sequences at once takes NumPy some ten
        microseconds, one for a single sequence takes Python 0.2.
        """
        uniform = rng.random((n, len(index)))
        if len(index) < 32:
            row = cache(lambda token: cumulative(softmax(self.table[token], temperature)).tolist())
            texts = [
                list(accumulate(numbers, lambda token, number: bisect_right(row(token), number), initial=start))
                for start, numbers in zip(index[:, -1].tolist(), uniform.T.tolist(), strict=True)
            ]
            drawn = np.array(texts, dtype=np.int64)  # (B, 1 + n)
        else:
            rows, steps = cumulative(softmax(self.table, temperature)), [index[:, -1]]  # (V, V)
            for numbers in uniform:
                steps.append(draw(rows[steps[-1]], numbers))
            drawn = np.stack(steps, axis=1)
        yield drawn[:, 1:]
