"""Text from a model: a prompt in, the prompt and what the model makes of it out."""

import numpy as np

from charlm.errors import CharlmError
from charlm.models.predictor import Predictor
from charlm.random import generator
from charlm.text.vocabulary import UnknownCharacterError, Vocabulary


def sample(
    model: Predictor,
    vocabulary: Vocabulary,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> str:
    """`prompt` and `max_new_tokens` characters after it; the same for the same seed.

    Raises CharlmError for a prompt that is empty or has a character that is not in the vocabulary.
    """
    unusable = "The prompt (for the pipeline, sample.prompt in params.yaml) cannot be used."
    if not prompt:
        raise CharlmError(
            unusable, "It is empty; a model needs at least one character to continue, such as a line end."
        )
    try:
        index = vocabulary.encode(prompt).astype(np.int64)[None]  # (1, T)
    except UnknownCharacterError as err:
        raise CharlmError(unusable, err.message) from err
    text = model.generate(index, max_new_tokens, temperature, generator(seed, "text"))  # (1, T + max_new_tokens)
    return vocabulary.decode(text[0])
