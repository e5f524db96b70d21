"""The bigram: its weights, its loss and its text, held against the notebook's; and the seeds that all comes from."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from charlm.models.bigram import BigramLanguageModel
from charlm.random import Purpose, seeded_generator

V = 5
DRAWS = 20_000
CHI_SQUARE = 45.3  # with V * (V - 1) = 20 degrees of freedom exceeded once in a thousand times


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> BigramLanguageModel:
    return BigramLanguageModel(V, generator=generator())


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Contexts and targets, (4, 8)."""
    contexts, targets = torch.randint(V, (2, 4, 8), generator=generator(1))
    return contexts, targets


# Weights


def test_weights_are_normal_draws_in_float64() -> None:
    model = BigramLanguageModel(V, generator=generator(3))
    assert torch.equal(model.table, torch.randn(V, V, dtype=torch.float64, generator=generator(3)))
    assert dict(model.named_parameters()).keys() == {"token_embedding_table.weight"}


def test_a_seed_means_the_same_model_in_float32() -> None:
    double, single = (BigramLanguageModel(V, generator=generator(3), dtype=t) for t in (torch.float64, torch.float32))
    assert single.table.dtype == torch.float32
    assert torch.equal(single.table, double.table.float())


# Loss


def test_logits_and_loss_are_the_notebooks(
    model: BigramLanguageModel, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    contexts, targets = batch
    logits, loss = model(contexts, targets)
    assert torch.equal(logits, model.table[contexts])
    B, T, C = logits.shape  # noqa: N806 the notebook's names
    assert (B, T, C) == (4, 8, V)
    assert torch.equal(loss, F.cross_entropy(logits.view(B * T, C), targets.view(B * T)))


def test_without_targets_there_is_no_loss(model: BigramLanguageModel, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    contexts, targets = batch
    logits, loss = model(contexts)
    assert loss is None
    assert torch.equal(logits, model(contexts, targets)[0])


# Text


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_probabilities_are_the_softmax_of_logits_over_temperature(dtype: torch.dtype, temperature: float) -> None:
    model = BigramLanguageModel(V, generator=generator(), dtype=dtype)
    weights = (model.table.detach().double() / temperature).exp()
    probabilities = model.next_char_probabilities(temperature)
    assert probabilities.dtype == torch.float64
    torch.testing.assert_close(probabilities, weights / weights.sum(dim=1, keepdim=True))


def test_text_goes_on_from_its_context(model: BigramLanguageModel, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    context, _ = batch
    before = context.clone()
    text = model.generate(context, 20, generator=generator())
    assert (text.shape, text.dtype) == ((4, 28), torch.int64)
    assert torch.equal(text[:, :8], before)
    assert torch.equal(context, before)
    assert 0 <= text.min() <= text.max() < V
    assert len({tuple(row) for row in text[:, 8:].tolist()}) == 4  # each row has draws of its own


def test_no_new_tokens_leave_the_context(model: BigramLanguageModel, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    for context in (batch[0], batch[0].repeat(20, 1)):
        assert torch.equal(model.generate(context, 0, generator=generator()), context)


def test_few_sequences_and_many_walk_alike(model: BigramLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    uniform = torch.rand(50, 100, dtype=torch.float64, generator=generator())
    start = torch.randint(V, (100, 1), generator=generator())

    def generated(which: slice) -> torch.Tensor:
        monkeypatch.setattr(torch, "rand", lambda *_, **__: uniform[:, which])
        return model.generate(start[which], 50)

    assert torch.equal(torch.cat([generated(slice(i, i + 20)) for i in range(0, 100, 20)]), generated(slice(100)))


def test_only_the_last_character_of_the_context_counts(model: BigramLanguageModel) -> None:
    contexts = torch.randint(V, (100, 3), generator=generator())
    long, short = (model.generate(index, 10, generator=generator()) for index in (contexts, contexts[:, -1:]))
    assert torch.equal(long[:, 2:], short)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_pairs_in_a_text_are_as_frequent_as_probable(model: BigramLanguageModel, temperature: float) -> None:
    text = model.generate(torch.zeros(1, 1, dtype=torch.long), DRAWS, temperature=temperature, generator=generator())
    pairs = torch.bincount(text[0, :-1] * V + text[0, 1:], minlength=V * V).view(V, V)
    expected = model.next_char_probabilities(temperature) * pairs.sum(dim=1, keepdim=True)
    assert ((pairs - expected) ** 2 / expected).sum() < CHI_SQUARE


@pytest.mark.parametrize("temperature", [1e-3, 1e-30])
def test_close_to_temperature_zero_the_likeliest_character_follows(
    model: BigramLanguageModel, temperature: float
) -> None:
    start = torch.arange(V)[:, None]
    text = model.generate(start, 1, temperature=temperature, generator=generator())
    assert torch.equal(text[:, 1], model.table.argmax(dim=1))


@pytest.mark.parametrize("never", range(V))
def test_a_character_without_probability_never_follows(model: BigramLanguageModel, never: int) -> None:
    with torch.no_grad():
        model.table[:, never] = -torch.inf
    text = model.generate(torch.full((DRAWS, 1), never), 1, generator=generator())
    assert set(text[:, 1].tolist()) == set(range(V)) - {never}


def test_the_seed_alone_decides_the_text(model: BigramLanguageModel) -> None:
    texts = []
    for seed, elsewhere in ((1, 1), (1, 2), (2, 1)):
        torch.manual_seed(elsewhere)
        texts.append(model.generate(torch.zeros(1, 1, dtype=torch.long), 100, generator=generator(seed)))
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


# Seeds


def test_every_purpose_has_a_stream_of_its_own() -> None:
    drawn = {purpose: torch.rand(4, generator=seeded_generator(1337, purpose)) for purpose in get_args(Purpose)}
    again = {purpose: torch.rand(4, generator=seeded_generator(1337, purpose)) for purpose in get_args(Purpose)}
    assert all(torch.equal(drawn[purpose], again[purpose]) for purpose in drawn)
    assert len({tuple(numbers.tolist()) for numbers in drawn.values()}) == 3


@pytest.mark.parametrize("seed", [0, 1337, 2**64 - 1])
def test_streams_are_spawned_from_the_seed_as_numpy_spawns_them(seed: int) -> None:
    children = np.random.SeedSequence(seed).spawn(3)
    for purpose, child in zip(("weights", "batches", "text"), children, strict=True):
        assert seeded_generator(seed, purpose).initial_seed() == child.generate_state(1, np.uint64)[0]
