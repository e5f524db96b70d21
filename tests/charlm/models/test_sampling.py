"""Text from a model."""

from itertools import pairwise

import pytest
import torch

from charlm.models.bigram import BigramLanguageModel
from charlm.models.sampling import PromptError, sample
from charlm.random import seeded_generator
from charlm.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary.from_text("\n abcdé")


@pytest.fixture
def model() -> BigramLanguageModel:
    return BigramLanguageModel(len(VOCABULARY), generator=seeded_generator(0, "weights"))


@pytest.mark.parametrize("prompt", ["\n", "a", "a bé\n", "é" * 1000])
@pytest.mark.parametrize("max_new_tokens", [1, 300])
def test_text_is_the_prompt_and_as_many_characters_as_asked(
    model: BigramLanguageModel, prompt: str, max_new_tokens: int
) -> None:
    text = sample(model, VOCABULARY, prompt, max_new_tokens=max_new_tokens, temperature=1.0, seed=1)
    assert text.startswith(prompt)
    assert len(text) == len(prompt) + max_new_tokens
    assert set(text) <= set(VOCABULARY.characters)


def test_text_is_what_the_model_generates_from_the_seeds_stream_for_text(model: BigramLanguageModel) -> None:
    index = torch.tensor([[2, 3]])
    generated = model.generate(index, 50, temperature=2.0, generator=seeded_generator(1, "text"))
    text = "".join(VOCABULARY.characters[token] for token in generated[0].tolist())
    assert sample(model, VOCABULARY, "ab", max_new_tokens=50, temperature=2.0, seed=1) == text


def test_the_seed_decides_the_text(model: BigramLanguageModel) -> None:
    texts = [sample(model, VOCABULARY, "a", max_new_tokens=100, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_low_temperature_keeps_to_the_likeliest_characters(model: BigramLanguageModel) -> None:
    text = sample(model, VOCABULARY, "a", max_new_tokens=50, temperature=1e-6, seed=1)
    likeliest = dict(zip(VOCABULARY.characters, VOCABULARY.decode(model.table.argmax(dim=1).numpy()), strict=True))
    assert all(likeliest[char] == next_char for char, next_char in pairwise(text))


def test_a_prompt_with_an_unknown_character_is_refused(model: BigramLanguageModel) -> None:
    with pytest.raises(PromptError) as err:
        sample(model, VOCABULARY, "ab?", max_new_tokens=1, temperature=1.0, seed=1)
    assert str(err.value) == (
        "The prompt (for the pipeline, sample.prompt in params.yaml) cannot be used. "
        "Character '?' (U+003F, QUESTION MARK) at position 2 is not among the 7 characters of the vocabulary.\n"
        "Remove it, or train on a text that contains it."
    )


def test_an_empty_prompt_is_refused(model: BigramLanguageModel) -> None:
    with pytest.raises(PromptError) as err:
        sample(model, VOCABULARY, "", max_new_tokens=1, temperature=1.0, seed=1)
    assert "cannot be used. It is empty: a model needs one character at least" in err.value.message
