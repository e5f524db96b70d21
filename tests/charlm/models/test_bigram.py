"""The bigram: its closed forms compared with the way of all models, its loss and its text with the notebook's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from charlm.models.base import LanguageModel
from charlm.models.bigram import BigramLanguageModel
from charlm.models.predictor import Predictor, softmax
from charlm.random import generator
from charlm.text.corpus import Split
from tests.models_for_tests import TEST, TRAIN, V, bigram, table

DRAWS = 20_000
CHI_SQUARE = 75.0  # with V * (V - 1) = 42 degrees of freedom exceeded once in a thousand times


@pytest.fixture
def model() -> BigramLanguageModel:
    return bigram()


@pytest.fixture
def batch() -> torch.Tensor:
    """Windows, (4, 9)."""
    return torch.from_numpy(next(TRAIN.random_windows(4, 8, generator(3, "batches"))))


# Its closed forms


@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 20))
def test_gradient_and_loss_are_those_of_autograd(seed: int, batch_size: int, block_size: int) -> None:
    model = bigram(seed=seed)
    windows = torch.from_numpy(next(TRAIN.random_windows(batch_size, block_size, generator(seed, "batches"))))
    contexts, targets = windows[:, :-1], windows[:, 1:]
    (loss, [gradient]), (expected_loss, [expected]) = (
        way(contexts, targets)
        for way in (model.loss_and_gradients, super(BigramLanguageModel, model).loss_and_gradients)
    )
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-14)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-15)


@given(st.integers(0, 99), st.integers(2, 100), st.integers(1, 9))
def test_loss_over_a_split_is_that_of_its_windows(seed: int, length: int, block_size: int) -> None:
    model = bigram(seed=seed).float().double()  # a table is of weights in float32
    model.block_size = block_size
    split = Split("test", TEST.tokens[:length], V)
    assert model.loss_over(split) == pytest.approx(LanguageModel.loss_over(model, split), rel=1e-12)
    assert model.estimated_loss(split, 4, 20) == model.loss_over(split)


@pytest.mark.parametrize("sequences", [1, 3, 40])
def test_text_is_that_of_the_way_of_all_models(model: BigramLanguageModel, sequences: int) -> None:
    model = model.float().double()
    index = np.random.default_rng(0).integers(V, size=(sequences, 3))
    text = model.generate(index, 50, 0.7, generator(1, "text"))
    assert (text.shape, text.dtype) == ((sequences, 53), np.int64)
    assert np.array_equal(text, LanguageModel.generate(model, index, 50, 0.7, generator(1, "text")))


def test_table_is_the_model_that_it_is_of(model: BigramLanguageModel) -> None:
    assert np.array_equal(table().table, model.token_embedding_table.weight.detach().numpy())
    assert table().loss_over(TEST) == pytest.approx(model.loss_over(TEST), abs=1e-7)  # that is in float32
    predictor: Predictor = table()  # what it can do, the type checker knows
    assert predictor.next_char_probabilities(np.array([[1, 2]])).shape == (1, V)


# Its loss


def test_logits_and_loss_are_the_notebooks(model: BigramLanguageModel, batch: torch.Tensor) -> None:
    contexts, targets = batch[:, :-1], batch[:, 1:]
    logits, loss = model(contexts, targets)
    assert torch.equal(logits, model.token_embedding_table.weight[contexts])
    B, T, C = logits.shape  # noqa: N806 the notebook's names
    assert (B, T, C) == (4, 8, V)
    assert torch.equal(loss, F.cross_entropy(logits.view(B * T, C), targets.reshape(B * T)))
    assert model(contexts)[1] is None


def test_weights_are_normal_draws_from_the_seed() -> None:
    weight = bigram(100, seed=3).token_embedding_table.weight
    assert weight.dtype == torch.float64
    assert torch.equal(weight, torch.from_numpy(generator(3, "weights").standard_normal((100, 100))))
    assert abs(weight.mean().item()) < 0.05
    assert abs(weight.std().item() - 1) < 0.05


# Its text


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_probabilities_are_the_softmax_of_logits_over_temperature(temperature: float) -> None:
    weights = np.exp(table().table / temperature)
    probabilities = table().next_char_probabilities(np.arange(V)[:, None], temperature)
    assert probabilities == pytest.approx(weights / weights.sum(axis=1, keepdims=True))


def test_no_new_characters_leave_the_context_and_no_text_changes_it() -> None:
    for count in (1, 40):
        index = np.random.default_rng(0).integers(V, size=(count, 3))
        before = index.copy()
        assert np.array_equal(table().generate(index, 0, 1.0, generator(1, "text")), before)
        text = table().generate(index, 20, 1.0, generator(1, "text"))
        assert np.array_equal(text[:, :3], before)
        assert np.array_equal(index, before)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_pairs_in_a_text_are_as_frequent_as_probable(temperature: float) -> None:
    text = table().generate(np.zeros((1, 1), dtype=np.int64), DRAWS, temperature, generator(1, "text"))
    pairs = Split("text", text[0].astype(np.uint8), V).pairs
    expected = softmax(table().table, temperature) * pairs.sum(axis=1, keepdims=True)
    assert ((pairs - expected) ** 2 / expected).sum() < CHI_SQUARE


@pytest.mark.parametrize("temperature", [1e-5, 1e-30])
@pytest.mark.parametrize("repeats", [1, 10], ids=["few sequences", "many"])
def test_close_to_temperature_zero_the_likeliest_character_follows(temperature: float, repeats: int) -> None:
    start = np.tile(np.arange(V), repeats)[:, None]
    text = table().generate(start, 1, temperature, generator(1, "text"))
    assert np.array_equal(text[:, 1], np.tile(table().table.argmax(axis=1), repeats))


@pytest.mark.parametrize("never", range(V))
def test_a_character_without_probability_never_follows(never: int) -> None:
    model = table()
    model.table[:, never] = -np.inf
    text = model.generate(np.full((DRAWS, 1), never), 1, 1.0, generator(1, "text"))
    assert set(text[:, 1].tolist()) == set(range(V)) - {never}
