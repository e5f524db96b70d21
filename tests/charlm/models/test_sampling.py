"""Text from a model."""

from itertools import pairwise

import numpy as np
import pytest

from charlm.errors import CharlmError
from charlm.models.sampling import BATCH, batches, sample, samples, stream
from charlm.models.table import BigramTable
from charlm.random import generator
from charlm.text.vocabulary import Vocabulary
from tests.models_for_tests import table

VOCABULARY = Vocabulary("\n abcdé")


@pytest.fixture
def model() -> BigramTable:
    return table(len(VOCABULARY))


@pytest.mark.parametrize("prompt", ["\n", "a", "a bé\n", "é" * 1000])
@pytest.mark.parametrize("max_new_tokens", [1, 300])
def test_text_is_the_prompt_and_as_many_characters_as_asked(
    model: BigramTable, prompt: str, max_new_tokens: int
) -> None:
    text = sample(model, VOCABULARY, prompt, max_new_tokens=max_new_tokens, temperature=1.0, seed=1)
    assert text.startswith(prompt)
    assert len(text) == len(prompt) + max_new_tokens
    assert set(text) <= set(VOCABULARY.characters)


def test_text_is_what_the_model_generates_from_the_seeds_stream_for_text(model: BigramTable) -> None:
    generated = model.generate(np.array([[2, 3]]), 50, 2.0, generator(1, "text"))
    text = "".join(VOCABULARY.characters[token] for token in generated[0].tolist())
    settings = {"max_new_tokens": 50, "temperature": 2.0, "seed": 1}
    assert sample(model, VOCABULARY, "ab", **settings) == "".join(stream(model, VOCABULARY, "ab", **settings)) == text


def test_the_seed_decides_the_text(model: BigramTable) -> None:
    texts = [sample(model, VOCABULARY, "a", max_new_tokens=100, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_low_temperature_keeps_to_the_likeliest_characters(model: BigramTable) -> None:
    text = sample(model, VOCABULARY, "a", max_new_tokens=50, temperature=1e-6, seed=1)
    likeliest = dict(zip(VOCABULARY.characters, VOCABULARY.decode(model.table.argmax(axis=1)), strict=True))
    assert all(likeliest[char] == next_char for char, next_char in pairwise(text))


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        (
            "ab?",
            "Character '?' (U+003F, QUESTION MARK) at position 2 is not among the 7 characters",
        ),
        ("", "It is empty; a model needs at least one character to continue, such as a line end."),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused(model: BigramTable, prompt: str, problem: str) -> None:
    with pytest.raises(CharlmError) as err:
        sample(model, VOCABULARY, prompt, max_new_tokens=1, temperature=1.0, seed=1)
    start = "The prompt (for the pipeline, sample.prompt in params.yaml) cannot be used.\n"
    assert err.value.message.startswith(start + problem)


def test_many_prompts_are_continued_together_each_as_alone(model: BigramTable) -> None:
    prompts = ["a", "bc", "d", *["ab"] * (2 * BATCH), "a"]
    settings = {"max_new_tokens": 5, "temperature": 1.0, "seed": 3}
    assert samples(model, VOCABULARY, prompts, **settings) == [
        sample(model, VOCABULARY, prompt, **settings) for prompt in prompts
    ]
    assert sorted(place for batch in batches(prompts) for place in batch) == list(range(len(prompts)))
    assert max(len(batch) for batch in batches(prompts)) == BATCH
