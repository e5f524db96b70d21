"""Exact arithmetic: its budget against whole numbers, its functions against Python's own, its freedom of order."""

import math
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from charlm.models import elementary, exact, trainable_class
from charlm.models.base import LanguageModel
from charlm.models.exact import BeyondGridError, Exact, by_position, operand_bits, snapped, total
from charlm.provenance import arithmetic
from charlm.random import generator
from charlm.training import exact_rules
from charlm.training.loop import train
from tests.models_for_tests import TEST, TRAIN, Mean, V, settings

SETTINGS: dict[str, dict[str, Any]] = {
    "bigram": {},
    "mlp": {"n_context": 3, "n_embd": 8, "n_hidden": 16},
    "gru": {"n_embd": 8, "n_hidden": 16, "dropout": 0.1},
    "gpt": {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_window": 3, "dropout": 0.1},
}
RULES = {
    "precision": "exact",
    "gradient_accumulation_steps": 2,
    "batch_size": 5,
    "max_iters": 20,
    "warmup_iters": 5,
    "schedule": "cosine",
    "grad_clip": 0.5,
    "weight_decay": 0.1,
}


def initial(name: str, precision: Any = "exact") -> LanguageModel:
    return trainable_class(name).initial(V, 8, generator(1, "weights"), precision, **SETTINGS[name])


def random_model(name: str, precision: Any = "exact") -> LanguageModel:
    """A model with no weight at zero."""
    rng, model = np.random.default_rng(3), initial(name, precision)
    for parameter in model.parameters():
        parameter.data.copy_(torch.from_numpy(rng.normal(0, 0.5, parameter.shape).astype(np.float32)))
    return model


def tokens(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(5).integers(V, size=shape))


def result(name: str, **changes: Any) -> list[bytes]:
    """Every bit of the weights and of the loss curve."""
    given = settings(**RULES | {"optimizer": "adamw" if name == "bigram" else "muon"} | changes)
    model = initial(name, given.precision)
    model.round_weights = lambda: None  # type: ignore[method-assign]  # float32 would hide a last bit
    points = list(train(model, (TRAIN, TEST), given, generator(given.seed, "batches")))
    return [repr(points).encode(), *(weight.detach().numpy().tobytes() for weight in model.parameters())]


# The budget


@pytest.mark.parametrize("terms", [1, 2, 3, 128, 1000, 1024, 5000])
def test_product_of_the_largest_operands_is_the_one_of_whole_numbers(terms: int) -> None:
    """The worst case: all operands at the end of their grid, or one step before."""
    bits, rng = operand_bits(terms), np.random.default_rng(0)
    a, b = (2**bits - rng.integers(1, 3, (4, terms)) for _ in range(2))
    x, y = (snapped(torch.from_numpy(operand / 2.0**bits), bits) * 2.0**bits for operand in (a, b))
    assert np.array_equal(x.numpy(), a)
    found = (x @ y.T).numpy().astype(np.int64)
    assert found.tolist() == [[sum(int(p) * int(q) for p, q in zip(r, s, strict=True)) for s in b] for r in a]
    assert terms * 2 ** (2 * bits) <= 2**53 < 4 * max(2, terms) * 2 ** (2 * bits + 1)


def test_numbers_on_a_grid_are_whole_numbers_of_steps_and_the_nearest() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(50, 33)) * 2.0 ** rng.integers(-90, 90, (50, 1)))
    for bits in (7, 21, 51):
        grid = by_position(x, bits)
        _, exponent = np.frexp(x.abs().amax(-1, keepdim=True).numpy())
        steps = grid.numpy() / 2.0 ** (exponent - bits)
        assert np.array_equal(steps, np.rint(steps))
        assert np.abs(steps).max() <= 2**bits
        assert np.array_equal(steps, np.rint(x.numpy() / 2.0 ** (exponent - bits)))


def test_what_is_tiny_is_zero_and_what_is_not_finite_stays_so() -> None:
    assert not snapped(torch.full((3,), 5e-324, dtype=torch.float64), 21).any()
    for odd in (math.nan, math.inf):
        assert snapped(torch.tensor([1.0, odd], dtype=torch.float64), 21).isnan().all()


def test_sum_of_a_vector_is_that_of_fractions() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 1000)))
    for row, found in zip(x, total(x), strict=True):
        assert found.item() == pytest.approx(float(sum(map(Fraction, row.tolist()))), abs=1e-9)
        assert found.item() == total(row.flip(0)).item()


# Elementwise operations


def test_kernels_round_correctly() -> None:
    assert arithmetic.wrong_kernels() == []


def test_kernel_that_does_not_is_found() -> None:
    """PyTorch's own square root, on the CPU."""
    x = torch.from_numpy(arithmetic.numbers(20_000))
    assert x.sqrt().tolist() != [math.sqrt(p) for p in x.tolist()]


def test_python_rounds_as_fractions_do() -> None:
    drawn = arithmetic.numbers(2000)
    for p, q in zip(drawn.tolist(), drawn[::-1].tolist(), strict=True):
        if abs(p) < 1e150 and 1e-150 < abs(q) < 1e150:
            assert p / q == float(Fraction(p) / Fraction(q))
            assert p * q == float(Fraction(p) * Fraction(q))


def test_elementary_functions_are_close_to_decimals() -> None:
    context = Context(prec=40)
    for x in np.linspace(-30, 0, 301):
        true = float(context.exp(Decimal(float(x))))
        assert elementary.exp(np.array([x]))[0] == pytest.approx(true, rel=1e-14 if x > -4 else 1e-7)
    for x in 2.0 ** np.linspace(-900, 900, 301):
        assert elementary.log(np.array([x]))[0] == pytest.approx(float(context.ln(Decimal(float(x)))), rel=1e-14)
    assert elementary.exp(np.array([0.0, -1e300, -np.inf])).tolist() == [
        1.0,
        *[elementary.exp(np.array([-64.0]))[0]] * 2,
    ]


def test_angles_are_those_of_decimals_everywhere() -> None:
    cosines, sines = elementary.rotations(64, 8)
    angles = np.outer(np.arange(64), 10_000.0 ** (-np.arange(0, 8, 2) / 8))
    np.testing.assert_allclose(cosines, np.cos(angles), atol=1e-14)
    np.testing.assert_allclose(sines, np.sin(angles), atol=1e-14)
    assert [elementary.cosine(turns) for turns in (0.0, 0.5, 1.0)] == pytest.approx([1, 0, -1], abs=1e-16)
    assert elementary.power(0.999, 1234) == pytest.approx(0.999**1234, rel=1e-13)


# The models


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_gradients_are_those_of_float64(name: str) -> None:
    """But for operands of 21 bits and more."""
    contexts, targets = tokens(2, 4, 8)
    models = [random_model(name, precision) for precision in ("exact", "float64")]
    for model in models:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    (loss, gradients), (expected, others) = (model.loss_and_gradients(contexts, targets) for model in models)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for gradient, other in zip(gradients, others, strict=True):
        assert (gradient - other).abs().max() <= 1e-4 * other.abs().max()


@pytest.mark.parametrize("name", SETTINGS)
def test_neither_batch_nor_later_characters_nor_a_cache_change_a_bit(name: str) -> None:
    model, index = random_model(name), tokens(3, 8)
    with torch.no_grad():
        logits = model.logits(index)
        assert torch.equal(model.logits(index[1:2]), logits[1:2])
        assert torch.equal(model.logits(index[:, :5]), logits[:, :5])
        cache, steps = None, []
        for position in range(8):
            step, cache = model.continued(index[:, position : position + 1], cache)
            steps.append(step[:, -1])
    assert torch.equal(torch.stack(steps, 1), logits)


@pytest.fixture
def shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add every sum of a matrix product, and of a tensor along a dimension, in a random order of its terms."""
    draws = torch.Generator().manual_seed(0)
    matmul, sums = Tensor.__matmul__, Tensor.sum

    def product(a: Tensor, b: Tensor) -> Tensor:
        order = torch.randperm(a.shape[-1], generator=draws)
        return matmul(a[..., order], b[..., order, :])

    def summed(x: Tensor, dim: int | None = None, **kind: Any) -> Tensor:
        x, dim = (x.flatten(), 0) if dim is None else (x, dim)
        return sums(x.index_select(dim, torch.randperm(x.shape[dim], generator=draws)), dim, **kind)

    monkeypatch.setattr(Tensor, "__matmul__", product)
    monkeypatch.setattr(Tensor, "sum", summed)


@pytest.mark.parametrize("name", SETTINGS)
def test_order_of_no_sum_changes_a_bit(name: str, request: pytest.FixtureRequest) -> None:
    """At six times the rate too."""
    rates = [{}, {"learning_rate": 0.06, "muon_learning_rate": 0.12}]
    before = [result(name, **rate) for rate in rates]
    request.getfixturevalue("shuffled")
    assert [result(name, **rate) for rate in rates] == before


OFF_GRID: list[tuple[str, Callable[..., Any]]] = [
    ("snapped", lambda x, bits, largest=None: x),
    ("by_position", lambda x, bits: x),
    ("on_fixed_grid", lambda x, bits, largest=1.0: x),
]


@pytest.mark.parametrize(("name", "without"), OFF_GRID)
def test_without_one_grid_the_order_does_change_bits(
    name: str, without: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """So the test above can fail. Attention and a norm alone: later grids hide most last bits again."""

    def attention() -> list[bytes]:
        q, k, v = (
            draw.requires_grad_() for draw in torch.from_numpy(np.random.default_rng(0).normal(size=(3, 2, 2, 30, 8)))
        )
        found = Exact().attention(Exact().norm(q), k, v, causal=True)
        gradients = torch.autograd.grad((found * found.detach()).sum(), (q, k, v))
        return [tensor.detach().numpy().tobytes() for tensor in (found, *gradients)]

    exactly = attention()
    with monkeypatch.context() as changed:
        changed.setattr(exact, name, without)
        before = attention()
        request.getfixturevalue("shuffled")
        assert attention() != before
    assert attention() == exactly


def test_orthogonal_matrix_is_one() -> None:
    for shape in ((6, 20), (20, 6)):
        x = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
        found = exact_rules.orthogonal(x)
        left, _, right = torch.linalg.svd(x, full_matrices=False)
        assert torch.linalg.svdvals(found).sub(1).abs().max() < 0.35
        assert (found * (left @ right)).sum() > 5


# What it refuses


def test_value_beyond_its_grid_is_an_error_with_step_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "VALUES", 2.0**-20)
    with pytest.raises(exact.CharlmError) as err:
        result("gpt")
    assert "At step 0 a value of attention is " in str(err.value)
    assert "Most likely train.learning_rate=0.01 or train.muon_learning_rate=0.02 is too high for exact" in str(
        err.value
    )


def test_gradient_beyond_its_grid_is_one_too() -> None:
    large = [(torch.zeros((), dtype=torch.float64), [torch.full((2,), 1e9, dtype=torch.float64)])] * 2
    with pytest.raises(BeyondGridError, match="a gradient of a micro-batch is 1e"):
        exact_rules.mean(large, 2, None)


def test_model_of_other_operations_is_refused() -> None:
    with pytest.raises(exact.CharlmError) as err:
        Mean(V, 8, generator(1, "weights")).compute_in("exact")
    assert str(err.value).startswith("train.precision is exact, but Mean does not compute exactly.\n")


def test_dropout_is_drawn_from_its_seed_as_often_as_it_says() -> None:
    layer, ops = torch.nn.Dropout(0.1), Exact()
    ones = torch.ones(300, 300, dtype=torch.float64)
    drawn = []
    for seed in (1, 1, 2):
        ops.seed(seed)
        drawn.append(ops.dropout(ones, layer))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert (drawn[0] == 0).double().mean().item() == pytest.approx(0.1, abs=0.005)
    assert drawn[0].mean().item() == pytest.approx(1, abs=0.005)
    assert ops.dropout(ones, layer.eval()) is ones
