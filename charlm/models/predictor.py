"""What a trained model can do, and how a character is drawn from its probabilities; no torch."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from charlm.exact.elementary import exp, log, sum_of_fractions
from charlm.text.corpus import Split

Precision = Literal["exact", "float64", "float32"]
Index = NDArray[np.int64]
Floats = NDArray[np.float64]


class Predictor(Protocol):
    """A model that can be measured and asked for text. B sequences of T characters, V characters in the vocabulary."""

    @classmethod
    def initial(
        cls,
        vocabulary_size: int,
        block_size: int,
        rng: np.random.Generator,
        precision: Precision | None = None,
        **settings: Any,
    ) -> Self:
        """The model before its first step, its weights drawn from `rng`; `settings` are its section of params.yaml."""

    def load_weights(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the `weights` of a checkpoint; ValueError names the first that is missing, unknown or misshapen."""

    def loss_over(self, split: Split) -> float:
        """Mean cross-entropy over every position of `split` but the first, in nats per character."""

    def loss_by_context(self, split: Split) -> Floats:
        """Mean loss of `split` by how many characters a prediction has seen, from 1 to block_size: (block_size,)."""

    def position_losses(self, split: Split) -> Floats:
        """The loss of each position of a short `split` but the first: (N - 1,)."""

    def next_char_probabilities(self, index: Index, temperature: float = 1.0) -> Floats:
        """Probability of each character after each sequence of `index` (B, T): (B, V)."""

    def generate(self, index: Index, n: int, temperature: float, rng: np.random.Generator) -> Index:
        """Each sequence of `index` (B, T) and `n` characters after it: (B, T + n).

        Characters are drawn by inverting the cumulative distribution: one uniform number each, all n × B drawn from
        `rng` beforehand, so that a model which knows a faster way comes to the same text.
        """

    def continuation(self, index: Index, n: int, temperature: float, rng: np.random.Generator) -> Iterator[Index]:
        """The same `n` characters alone, as they are drawn: arrays of one column or more for each sequence."""


def require_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError for the first tensor by name that is missing, unknown or misshapen."""
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise ValueError(f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}")


def log_softmax(logits: NDArray[np.floating[Any]], temperature: float = 1.0) -> Floats:
    """Logarithms of the probabilities of `logits` (..., V) in float64; nan for those of weights that diverged."""
    shifted = _shifted(logits, temperature)
    log_probabilities: Floats = shifted - log(sum_of_fractions(exp(shifted)))
    return log_probabilities


def _shifted(logits: NDArray[np.floating[Any]], temperature: float) -> Floats:
    """`logits` over the temperature, each the largest less."""
    with np.errstate(invalid="ignore", over="ignore"):
        # The largest is subtracted first, or a tiny temperature would make it infinite.
        shifted: Floats = (logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)) / temperature
    return shifted


def softmax(logits: NDArray[np.floating[Any]], temperature: float = 1.0) -> Floats:
    """Probabilities of `logits` (..., V) in float64."""
    e = exp(_shifted(logits, temperature))
    return np.asarray(e / sum_of_fractions(e))


def cumulative(probabilities: Floats) -> Floats:
    """The cumulative distributions of `probabilities` (..., V), each ending at 1, which a rounding error may miss."""
    sums = probabilities.cumsum(axis=-1)
    sums[..., -1] = 1.0
    return sums


def draw(cumulative: Floats, uniform: NDArray[np.float64]) -> Index:
    """The character of each cumulative distribution (B, V) that a number of `uniform` (B,) falls on: (B,)."""
    return np.asarray((cumulative <= uniform[:, None]).sum(axis=1))
