"""What every model of the registry does: one table of tests for all of them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from charlm.config import MODELS
from charlm.models import checkpoint, trainable_class
from charlm.models.base import LanguageModel
from charlm.models.predictor import Predictor, cumulative, draw
from charlm.random import generator
from charlm.text.corpus import Split
from charlm.text.vocabulary import Vocabulary
from charlm.training.history import Point
from charlm.training.loop import train
from charlm.training.resume import State, Unfinished
from tests.models_for_tests import TEST, TOKENS, TRAIN, V, settings

SETTINGS: dict[str, dict[str, Any]] = {
    "bigram": {},
    "mlp": {"n_context": 3, "n_embd": 4, "n_hidden": 5},
    "gru": {"n_embd": 4, "n_hidden": 5, "dropout": 0.5},
    "gpt": {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_window": 3, "dropout": 0.5},
}
WIDE: dict[str, dict[str, Any]] = {
    "bigram": {},
    "mlp": {"n_context": 8, "n_embd": 32, "n_hidden": 64},
    "gru": {"n_embd": 64, "n_hidden": 64, "dropout": 0.0},
    "gpt": {"n_layer": 1, "n_head": 2, "n_embd": 64, "n_window": 2, "dropout": 0.0},
}
"""With enough weights in each layer to measure how they were drawn."""
BLOCK = 8
VOCABULARY = Vocabulary("abcdefg")
RUN = settings(
    block_size=BLOCK,
    gradient_accumulation_steps=2,
    max_iters=6,
    warmup_iters=2,
    schedule="linear",
    grad_clip=1.0,
    eval_interval=3,
    eval_iters=2,
    precision="float32",
)
pytestmark = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def _global_generator() -> Iterator[None]:
    """Every test here finds PyTorch's global generator as it left it: no model draws from it for good."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def initial(name: str, seed: int = 1) -> LanguageModel:
    return trainable_class(name).initial(V, BLOCK, generator(seed, "weights"), **SETTINGS[name])


def random_model(name: str) -> LanguageModel:
    """A model in float64 with no weight at zero, as some are before the first step."""
    rng, model = np.random.default_rng(3), initial(name).double()
    for parameter in model.parameters():
        parameter.data.copy_(torch.from_numpy(rng.normal(0, 0.7, parameter.shape)))
    return model


def tokens(*shape: int, seed: int = 5) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(V, size=shape)


def trained(name: str, **changes: object) -> tuple[LanguageModel, list[Point]]:
    given = RUN.model_copy(update=changes)
    model = initial(name, given.seed)
    return model, list(train(model, (TRAIN, TEST), given, generator(given.seed, "batches")))


def weights(model: LanguageModel) -> bytes:
    return b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())


class Given:
    """A generator of these numbers."""

    def __init__(self, numbers: NDArray[np.float64]) -> None:
        self.numbers = numbers

    def random(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        assert shape == self.numbers.shape
        return self.numbers


# Weights


def test_initial_weights_come_from_the_generator_given(name: str) -> None:
    drawn = []
    for seed, elsewhere in ((1, 1), (1, 2), (2, 1)):
        with torch.random.fork_rng([]):
            torch.manual_seed(elsewhere)
            drawn.append(weights(initial(name, seed)))
    assert drawn[0] == drawn[1] != drawn[2]


def test_layers_keep_the_size_of_what_goes_through_them(name: str) -> None:
    """Embeddings are drawn from N(0, 1), matrices from N(0, 1 / columns); biases and some outputs are zero."""
    zero = ("head", "output", "contract", "bias")
    model = trainable_class(name).initial(100, BLOCK, np.random.default_rng(0), **WIDE[name])
    for key, weight in model.named_parameters():
        expected = 0 if any(word in key for word in zero) else 1 if "embedding" in key else weight.shape[1] ** -0.5
        assert weight.std().item() == pytest.approx(expected, rel=0.05), key


def test_hidden_matrices_are_all_between_embeddings_and_head(name: str) -> None:
    model = random_model(name)
    hidden = {id(matrix) for matrix in model.hidden_matrices()}
    others = {key for key, parameter in model.named_parameters() if id(parameter) not in hidden}
    assert all("embedding" in key or "head" in key or "bias" in key for key in others)
    assert all(matrix.ndim == 2 for matrix in model.hidden_matrices())
    assert bool(hidden) == (name != "bigram")


# Loss


def test_gradients_are_the_slopes_of_the_loss(name: str) -> None:
    """With dropout too: for one seed the loss is one function of the weights."""
    model = random_model(name)
    contexts, targets = torch.from_numpy(tokens(2, 3, BLOCK))
    _, gradients = model.loss_and_gradients(contexts, targets, seed=11)
    rng, step = np.random.default_rng(0), 1e-5
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        direction = torch.from_numpy(rng.normal(size=parameter.shape))
        losses = []
        for sign in (1, -1):
            parameter.data += sign * step * direction
            losses.append(model.loss_and_gradients(contexts, targets, seed=11)[0].item())
            parameter.data -= sign * step * direction
        slope = (losses[0] - losses[1]) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_dropout_is_decided_by_its_seed_and_absent_elsewhere(name: str) -> None:
    model = random_model(name)
    contexts, targets = torch.from_numpy(tokens(2, 3, BLOCK))
    losses = [model.loss_and_gradients(contexts, targets, seed)[0].item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1]
    assert (losses[0] != losses[2]) == ("dropout" in SETTINGS[name])
    exact = model(contexts, targets)[1].item()
    assert model(contexts, targets)[1].item() == exact
    if "dropout" not in SETTINGS[name]:
        assert losses[0] == pytest.approx(exact, rel=1e-12)


def test_no_position_sees_a_later_one(name: str) -> None:
    model = random_model(name)
    index = torch.from_numpy(tokens(3, BLOCK))
    logits = model.logits(index)
    for position in range(BLOCK):
        changed = index.clone()
        changed[:, position] = (changed[:, position] + 1) % V
        after = model.logits(changed)
        torch.testing.assert_close(after[:, :position], logits[:, :position], rtol=0, atol=1e-12)
        assert (after[:, position] - logits[:, position]).abs().max() > 1e-3


def test_a_short_sequence_is_the_start_of_a_long_one(name: str) -> None:
    model = random_model(name)
    index = torch.from_numpy(tokens(3, BLOCK))
    logits = model.logits(index)
    for length in range(1, BLOCK + 1):
        short, _ = model(index[:, :length])
        torch.testing.assert_close(short, logits[:, :length], rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [2, BLOCK, BLOCK + 1, BLOCK + 2, 39])
def test_loss_over_is_that_of_a_plain_loop_over_positions(name: str, length: int) -> None:
    """Windows of a block start half a block apart, the last one ends with the split; a target counts in its first."""
    model, text = random_model(name), TOKENS[:length].astype(np.int64)
    size = min(BLOCK, length - 1)
    starts = [*range(0, length - 1 - size, max(1, size // 2)), length - 1 - size]
    losses = []
    for position in range(1, length):
        start = next(start for start in starts if start + size >= position)
        logits = model.logits(torch.from_numpy(text[None, start:position]))[0, -1]
        losses.append(-logits.log_softmax(dim=0)[text[position]].item())
    # A bigram is measured by its table in float32.
    assert model.loss_over(Split("test", TOKENS[:length], V)) == pytest.approx(np.mean(losses), rel=1e-7)


# Text


@pytest.mark.parametrize("length", [1, 5, BLOCK, 21])
def test_text_is_drawn_from_the_probabilities_of_its_window_step_by_step(name: str, length: int) -> None:
    """As without a cache, also beyond a block."""
    model, index = random_model(name), tokens(3, length)
    text = model.generate(index, 3 * BLOCK, 0.8, np.random.default_rng(1))
    expected = index
    for uniform in np.random.default_rng(1).random((3 * BLOCK, 3)):
        drawn = draw(cumulative(model.next_char_probabilities(expected, 0.8)), uniform)
        expected = np.concatenate([expected, drawn[:, None]], axis=1)
    np.testing.assert_array_equal(text, expected)
    np.testing.assert_array_equal(text[:, :length], index)


def test_probabilities_are_those_of_the_last_half_to_whole_block(name: str) -> None:
    model, index = random_model(name), tokens(2, 40)
    for length in range(1, 41):
        start = 0 if length <= BLOCK else math.ceil((length - BLOCK) / 4) * 4
        assert length - start in range(min(length, 5), BLOCK + 1)
        logits = model.logits(torch.from_numpy(index[:, start:length]))[:, -1]
        expected = (logits / 0.5).softmax(dim=-1).detach().numpy()
        np.testing.assert_allclose(model.next_char_probabilities(index[:, :length], 0.5), expected, rtol=1e-5)


def test_many_sequences_become_what_each_does_alone(name: str) -> None:
    model, index = random_model(name), tokens(40, 3)
    numbers = np.random.default_rng(1).random((20, 40))
    together = model.generate(index, 20, 1.0, Given(numbers))  # type: ignore[arg-type]
    for row in range(40):
        alone = model.generate(index[[row]], 20, 1.0, Given(numbers[:, [row]]))  # type: ignore[arg-type]
        np.testing.assert_array_equal(alone[0], together[row])


def test_no_new_characters_leave_the_text(name: str) -> None:
    index = tokens(2, 12)
    np.testing.assert_array_equal(random_model(name).generate(index, 0, 1.0, np.random.default_rng(0)), index)


# Training


def test_the_seed_alone_decides_a_training_run(name: str) -> None:
    results = []
    for seed, elsewhere in ((1, 1), (1, 2), (2, 1)):
        with torch.random.fork_rng([]):
            torch.manual_seed(elsewhere)
            results.append(weights(trained(name, seed=seed)[0]))
    assert results[0] == results[1] != results[2]


def test_dropout_comes_from_the_seed_of_training(name: str) -> None:
    """With the same weights and batches another seed changes what is dropped, and nothing else."""
    results = []
    for seed in (1, 2):
        model = initial(name)
        list(train(model, (TRAIN, TEST), RUN.model_copy(update={"seed": seed}), generator(1, "batches")))
        results.append(weights(model))
    assert (results[0] != results[1]) == ("dropout" in SETTINGS[name])


def test_each_micro_batch_has_its_own_seed_whoever_computes_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Second:
        """The second of two processes; the first finds the same."""

        share = staticmethod(lambda micro_batches: micro_batches[1:])
        gather = staticmethod(lambda found: [*found, *found])

    def seeds(processes: Any) -> list[int]:
        model = initial(name)
        computed, used = model.loss_and_gradients, []
        monkeypatch.setattr(model, "loss_and_gradients", lambda *args: used.append(args[2]) or computed(*args))
        list(train(model, (TRAIN, TEST), RUN, generator(1, "batches"), processes=processes))
        return used

    alone = seeds(None)
    assert len(set(alone)) == 2 * RUN.max_iters
    assert seeds(Second()) == alone[1::2]


def test_measuring_changes_no_result(name: str) -> None:
    (often, points), (seldom, ends) = trained(name, eval_interval=1), trained(name, eval_interval=6)
    assert weights(often) == weights(seldom)
    assert [points[0], points[-1]] == ends


@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_run_that_was_cut_off_goes_on_to_the_same_bytes(name: str, rule: str, tmp_path: Path) -> None:
    """From every point at which its state was saved, in float64 too, dropout and all."""
    rule = "adamw" if name == "bigram" else rule
    settings = RUN.model_copy(update={"eval_interval": 1, "optimizer": rule, "grad_clip": 0.5})
    unfinished = Unfinished(tmp_path, {})

    def course(state: State | None) -> tuple[bytes, list[Point], list[State]]:
        model = trainable_class(name).initial(V, BLOCK, generator(1, "weights"), **SETTINGS[name]).double()
        saved: list[State] = []

        def save(state: State) -> None:
            unfinished._saved = float("-inf")
            unfinished.save(state)
            saved.append(unfinished.load())

        points = list(train(model, (TRAIN, TEST), settings, generator(1, "batches"), state=state, save=save))
        return weights(model), points, saved

    result, points, states = course(None)
    assert [state.step for state in states] == list(range(1, settings.max_iters))
    for state in states:
        assert course(state)[:2] == (result, points)
    unfinished.remove()
    assert unfinished.load() is None


def test_training_learns(name: str) -> None:
    optimizer = "adamw" if name == "bigram" else "muon"
    model, points = trained(name, max_iters=60, batch_size=16, learning_rate=0.05, optimizer=optimizer)
    assert points[-1].train_loss < points[0].train_loss - 0.2
    assert points[-1].train_loss == model.loss_over(TRAIN)


def test_the_smallest_model_learns_and_writes(name: str) -> None:
    """One character of context, two in the vocabulary."""
    text = np.array([0, 1] * 20, dtype=np.uint8)
    model = trainable_class(name).initial(2, 1, generator(1, "weights"), **SETTINGS[name])
    split = Split("train", text, 2)
    given = RUN.model_copy(update={"block_size": 1, "max_iters": 100, "learning_rate": 0.1})
    points = list(train(model, (split, split), given, generator(1, "batches")))
    assert points[-1].test_loss < 0.2
    assert model.generate(np.array([[0]]), 10, 0.01, np.random.default_rng(0)).tolist() == [[0, 1] * 5 + [0]]


# Checkpoints


def test_a_checkpoint_is_the_model_again(name: str, tmp_path: Path) -> None:
    model, _ = trained(name)
    path, index = tmp_path / "model.safetensors", tokens(2, 4)
    checkpoint.save(path, model, name, SETTINGS[name], VOCABULARY)
    loaded = checkpoint.load(path, VOCABULARY)

    def figures(of: Predictor) -> list[Any]:
        text = of.generate(index, 20, 1.0, np.random.default_rng(0))
        return [of.loss_over(TEST), text.tolist(), of.next_char_probabilities(index).tolist()]

    assert figures(loaded) == figures(model)
    if isinstance(loaded, LanguageModel):
        checkpoint.save(tmp_path / "again", loaded, name, SETTINGS[name], VOCABULARY)
        assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_an_untrained_model_is_the_one_that_training_started_from(name: str, tmp_path: Path) -> None:
    path, index = tmp_path / "model.safetensors", tokens(2, 4)
    checkpoint.save(path, trained(name)[0], name, SETTINGS[name], VOCABULARY)
    untrained = checkpoint.load_untrained(path, VOCABULARY, generator(1, "weights"))
    for temperature in (0.5, 1.0):
        expected = initial(name).next_char_probabilities(index, temperature)
        np.testing.assert_allclose(untrained.next_char_probabilities(index, temperature), expected, rtol=1e-6)
