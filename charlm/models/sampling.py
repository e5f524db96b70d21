"""Text from a model: prompts in, each prompt and what the model makes of it out."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CharlmError
from charlm.models.predictor import Predictor
from charlm.random import generator
from charlm.text.vocabulary import UnknownCharacterError, Vocabulary

BATCH = 64
"""Prompts that are continued together: the memory of a GPT's cache is bounded by it."""


def sample(model: Predictor, vocabulary: Vocabulary, prompt: str, **settings: Any) -> str:
    """`prompt` and the text after it; see `samples`."""
    return samples(model, vocabulary, [prompt], **settings)[0]


def stream(
    model: Predictor, vocabulary: Vocabulary, prompt: str, *, max_new_tokens: int, temperature: float, seed: int
) -> Iterator[str]:
    """The text of `sample` piece by piece: `prompt`, then what comes after it as the model draws it."""
    index = _encoded(vocabulary, prompt)[None]  # (1, T)
    yield prompt
    for piece in model.continuation(index, max_new_tokens, temperature, generator(seed, "text")):
        yield vocabulary.decode(piece[0])


def samples(
    model: Predictor,
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[str]:
    """Each of `prompts` and `max_new_tokens` characters after it; the same for the same seed, whatever the others.

    Prompts of one length are continued together, up to BATCH of them.

    Raises CharlmError for a prompt that is empty or has a character that is not in the vocabulary.
    """
    texts = [""] * len(prompts)
    for places in batches(prompts):
        index = np.stack([_encoded(vocabulary, prompts[place]) for place in places])  # (B, T)
        rng = _SameForAll(generator(seed, "text").bit_generator)
        text = model.generate(index, max_new_tokens, temperature, rng)  # (B, T + max_new_tokens)
        for place, row in zip(places, text, strict=True):
            texts[place] = vocabulary.decode(row)
    return texts


def batches(prompts: Sequence[str]) -> list[list[int]]:
    """The places of `prompts` that are continued together: of one length, at most BATCH."""
    by_length: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(place)
    return [places[start : start + BATCH] for places in by_length.values() for start in range(0, len(places), BATCH)]


class _SameForAll(np.random.Generator):
    """Draws the same numbers for every sequence, so that none depends on the others."""

    def random(self, shape: tuple[int, int]) -> NDArray[np.float64]:  # type: ignore[override]  # as `generate` calls it
        return np.repeat(super().random((shape[0], 1)), shape[1], axis=1)


def _encoded(vocabulary: Vocabulary, prompt: str) -> NDArray[np.int64]:
    unusable = "The prompt (for the pipeline, sample.prompt in params.yaml) cannot be used."
    if not prompt:
        raise CharlmError(
            unusable, "It is empty; a model needs at least one character to continue, such as a line end."
        )
    try:
        return vocabulary.encode(prompt).astype(np.int64)  # (T,)
    except UnknownCharacterError as err:
        raise CharlmError(unusable, err.message) from err
