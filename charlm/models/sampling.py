"""Text from a model: a prompt in, the prompt and what the model makes of it out."""

import torch

from charlm.errors import CharlmError
from charlm.models.bigram import BigramLanguageModel
from charlm.random import seeded_generator
from charlm.text.vocabulary import UnknownCharacterError, Vocabulary


class PromptError(CharlmError):
    """The model cannot go on from the prompt."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"The prompt (for the pipeline, sample.prompt in params.yaml) cannot be used. {problem}")


def sample(
    model: BigramLanguageModel,
    vocabulary: Vocabulary,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> str:
    """`prompt` and `max_new_tokens` characters after it; the same for the same seed.

    Raises PromptError for a prompt that is empty or has a character that the vocabulary does not hold.
    """
    if not prompt:
        raise PromptError("It is empty: a model needs one character at least to go on from, a line end will do.")
    try:
        index = torch.from_numpy(vocabulary.encode(prompt).astype("int64"))[None]  # (1, T)
    except UnknownCharacterError as err:
        raise PromptError(err.message) from err
    generator = seeded_generator(seed, "text")
    text = model.generate(index, max_new_tokens, temperature=temperature, generator=generator)
    return vocabulary.decode(text[0].numpy())  # (T + max_new_tokens,)
