"""Exact arithmetic: its budget against whole numbers, its functions against decimals, its freedom of order."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from charlm.exact import NotExact, elementary, exact, functions, grid, mode
from charlm.exact.grid import on_grid, operand_bits, product, snapped, total
from charlm.exact.operations import HANDLED, MOVES, PARTS, ROUNDS
from charlm.models import trainable_class
from charlm.models.base import LanguageModel
from charlm.provenance import arithmetic
from charlm.random import generator
from charlm.training.loop import _exact_mean, train
from tests import plain
from tests.models_for_tests import TEST, TRAIN, V, settings

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
PROJECT = Path(__file__).parents[3]


def random_model(name: str, precision: Any = "exact") -> LanguageModel:
    """A model with no weight at zero."""
    rng = np.random.default_rng(3)
    model = trainable_class(name).initial(V, 8, generator(1, "weights"), precision, **SETTINGS[name])
    for parameter in model.parameters():
        parameter.data.copy_(torch.from_numpy(rng.normal(0, 0.5, parameter.shape).astype(np.float32)))
    return model


def tokens(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(5).integers(V, size=shape))


def result(name: str, **changes: Any) -> list[bytes]:
    """Every bit of the weights and of the loss curve."""
    given = settings(**RULES | {"optimizer": "adamw" if name == "bigram" else "muon"} | changes)
    model = trainable_class(name).initial(V, 8, generator(1, "weights"), given.precision, **SETTINGS[name])
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


@pytest.mark.parametrize(("dtype", "range_of", "widths"), [(np.float64, 90, (7, 21, 51)), (np.float32, 60, (7, 22))])
def test_numbers_on_a_grid_are_whole_numbers_of_steps_and_the_nearest(
    dtype: Any, range_of: int, widths: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy((rng.normal(size=(50, 33)) * 2.0 ** rng.integers(-range_of, range_of, (50, 1))).astype(dtype))
    for bits in widths:
        found = snapped(x, bits, -1)
        _, exponent = np.frexp(x.abs().amax(-1, keepdim=True).numpy())
        steps = found.numpy() / 2.0 ** (exponent - bits)
        assert np.array_equal(steps, np.rint(steps))
        assert np.abs(steps).max() <= 2**bits
        assert np.array_equal(steps, np.rint(x.double().numpy() / 2.0 ** (exponent - bits)))


def test_what_is_tiny_is_zero_and_what_is_not_finite_stays_so() -> None:
    for dtype, tiny in ((torch.float64, 5e-324), (torch.float32, 1e-45)):
        assert not snapped(torch.full((3,), tiny, dtype=dtype), 21).any()
        for odd in (math.nan, math.inf):
            assert not snapped(torch.tensor([1.0, odd], dtype=dtype), 21).isfinite().all()


def test_sum_of_a_vector_is_that_of_fractions() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 1000)))
    for row, found in zip(x, total(x, -1), strict=True):
        assert found.item() == pytest.approx(float(sum(map(Fraction, row.tolist()))), abs=1e-9)
        assert found.item() == total(row.flip(0)).item()


# Elementary functions


def test_kernels_round_correctly() -> None:
    """Addition, subtraction, product, quotient and root of 100,000 numbers of any size, in both widths."""
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
    for x in np.linspace(-80, 80, 301):
        true = float(context.exp(Decimal(float(x))))
        assert elementary.exp(np.array([x]))[0] == pytest.approx(true, rel=1e-15)
        single = np.array([x], dtype=np.float32)
        assert elementary.exp(single)[0] == pytest.approx(float(context.exp(Decimal(float(single[0])))), rel=2e-7)
    for x in 2.0 ** np.linspace(-900, 900, 301):
        assert elementary.log(np.array([x]))[0] == pytest.approx(float(context.ln(Decimal(float(x)))), rel=1e-14)
    assert elementary.power(0.999, 1234) == pytest.approx(0.999**1234, rel=1e-13)


NEAR: list[tuple[Callable[..., Any], Callable[[float], float], float]] = [
    (lambda x: elementary.sine_and_cosine(x)[0], math.sin, 1e-14),
    (lambda x: elementary.sine_and_cosine(x)[1], math.cos, 1e-14),
    (elementary.tanh, math.tanh, 1e-15),
    (elementary.erf, math.erf, 1e-11),
    (elementary.bounded_exp, math.exp, 1e-12),
]


@pytest.mark.parametrize(("ours", "pythons", "tolerance"), NEAR)
def test_elementary_functions_are_close_to_pythons_in_both_libraries(ours: Any, pythons: Any, tolerance: float) -> None:
    x = np.linspace(-8, 8, 4001)
    found = ours(x)
    np.testing.assert_allclose(found, [pythons(value) for value in x.tolist()], rtol=1e-14, atol=tolerance)
    assert np.array_equal(ours(torch.from_numpy(x)).numpy(), found)


def test_functions_at_the_edges_are_what_they_should_be() -> None:
    edges = torch.tensor([0.0, -1.0, math.inf, -math.inf, math.nan, 200.0, -200.0])
    with exact():
        for function in (torch.exp, torch.log, torch.tanh, torch.sigmoid, torch.erf, torch.sqrt, torch.rsqrt):
            torch.testing.assert_close(function(edges), _plain(function, edges), equal_nan=True)


def _plain(function: Callable[..., Any], x: Tensor) -> Any:
    with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
        return function(x)


# What the mode computes is what PyTorch computes, but for the last bits

x = torch.linspace(-70, 90, 80).view(2, 5, 8).sin()
LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(1),
    "cross_entropy": lambda x: F.cross_entropy(x.flatten(0, 1), torch.arange(10) % 8),
    "smoothed": lambda x: F.cross_entropy(x.flatten(0, 1), torch.arange(10) % 8, label_smoothing=0.1),
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
    "powers": lambda x: x.pow(3) + x.abs().pow(1.7) + x.abs().sqrt() + 2**x,
    "waves": lambda x: x.sin() * x.cos(),
    "mean, var, norm": lambda x: x.mean(1) * x.var(1) * x.norm(),
    "cumsum": lambda x: x.cumsum(1),
    "einsum": lambda x: torch.einsum("btc,bsc->bts", x, x),
    "index": lambda x: x[:, [0, 0, 1]],
    "gather": lambda x: x.gather(1, torch.zeros(2, 3, 8, dtype=torch.long)),
    "unfold": lambda x: x.unfold(1, 3, 1),
    "layer_norm": lambda x: F.layer_norm(x, (8,), x[0, 0], x[1, 1]),
    "rms_norm": lambda x: F.rms_norm(x, (8,), x[0, 0]),
    "group_norm": lambda x: F.group_norm(x, 1),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "max_pool": lambda x: F.max_pool1d(x, 2),
    "attention": lambda x: F.scaled_dot_product_attention(*[x[:, None]] * 3, is_causal=True),
    "masked": lambda x: F.scaled_dot_product_attention(*[x[:, None]] * 3, attn_mask=torch.eye(5).bool()),
    "linear": lambda x: F.linear(x, x[0, :3], x[1, 0, :3]),
    "conv1d": lambda x: F.conv1d(x, x[:, :5, :3].contiguous(), x[0, 0, :2], padding=1),
    "grouped": lambda x: F.conv1d(x[:, :4], x[0, :4, :6].view(4, 2, 3), stride=2, groups=2),
    "conv2d": lambda x: F.conv2d(x[:, None], x[:1, None, :3, :3]),
    "transposed": lambda x: F.conv_transpose1d(x, x[0, :, :6].view(5, 2, 3), stride=2),
    "embedding": lambda x: F.embedding(torch.tensor([[0, 1, 1]]), x[0]),
    "scatter": lambda x: torch.zeros(2, 5, 8).index_add(1, torch.tensor([0, 0, 2, 1, 0]), x),
}


def with_gradient(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    own = x.clone().requires_grad_()
    y = function(own)
    [gradient] = torch.autograd.grad((y * torch.linspace(-1, 1.5, y.numel()).view(y.shape)).sum(), [own])
    return [y.detach(), gradient]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_their_gradients_are_pytorchs(name: str) -> None:
    expected = with_gradient(LAYERS[name])
    with exact():
        found = with_gradient(LAYERS[name])
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= 3e-6 * other.abs().max()


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN, nn.TransformerEncoderLayer])
def test_whole_modules_are_pytorchs(kind: Any) -> None:
    module = kind(8, 2, 16, batch_first=True, dropout=0.0) if kind is nn.TransformerEncoderLayer else kind(8, 4)
    outcome = [*with_gradient(lambda y: out[0] if isinstance(out := module(y), tuple) else out)]
    with exact():
        found = with_gradient(lambda y: out[0] if isinstance(out := module(y), tuple) else out)
    for one, other in zip(found, outcome, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_gradients_are_those_of_float64(name: str) -> None:
    contexts, targets = tokens(2, 4, 8)
    models = [random_model(name, precision) for precision in ("exact", "float64")]
    for module in (module for model in models for module in model.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    (loss, gradients), (expected, others) = (model.loss_and_gradients(contexts, targets) for model in models)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for gradient, other in zip(gradients, others, strict=True):
        assert (gradient - other).abs().max() <= 1e-4 * other.abs().max()


@pytest.mark.parametrize("name", SETTINGS)
def test_neither_batch_nor_later_characters_nor_a_cache_change_a_bit(name: str) -> None:
    model, index = random_model(name), tokens(3, 8)
    with torch.no_grad(), exact():
        logits = model.logits(index)
        assert torch.equal(model.logits(index[1:2]), logits[1:2])
        assert torch.equal(model.logits(index[:, :5]), logits[:, :5])
        cache, steps = None, []
        for position in range(8):
            step, cache = model.continued(index[:, position : position + 1], cache)
            steps.append(step[:, -1])
    assert torch.equal(torch.stack(steps, 1), logits)


# Optimizers


def steps_of(optimizer: Callable[..., torch.optim.Optimizer], **options: Any) -> Tensor:
    weight = nn.Parameter(x[0].clone())
    rule = optimizer([weight], lr=0.01, **options)
    for step in range(1, 6):
        weight.grad = (x[1] * step).sin()
        nn.utils.clip_grad_norm_([weight], 1.0)
        rule.step()
    return weight.detach()


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        *((torch.optim.AdamW, {way: True}) for way in ("fused", "foreach")),
        (torch.optim.AdamW, {"foreach": False}),
        (torch.optim.Adam, {"foreach": False}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.RMSprop, {}),
        (torch.optim.Muon, {}),
    ],
)
def test_optimizers_step_as_pytorchs_do(optimizer: Any, options: dict[str, Any]) -> None:
    expected = steps_of(optimizer, **options)
    with exact():
        found = steps_of(optimizer, **options)
    tolerance = 2e-3 if optimizer is torch.optim.Muon else 1e-6  # which computes in bfloat16
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_powers_of_a_beta_are_not_the_c_librarys_and_the_optimizer_is_left_as_it_was() -> None:
    rule = torch.optim.AdamW([nn.Parameter(torch.ones(2))], foreach=False)
    rule.param_groups[0]["params"][0].grad = torch.ones(2)
    seen = []
    rule.register_step_pre_hook(lambda *_: seen.append(type(rule.param_groups[0]["betas"][0])))
    with exact():
        rule.step()
    assert seen == [mode._Beta]
    assert list(map(type, rule.param_groups[0]["betas"])) == [float, float]
    assert 1 - mode._Beta(0.999) ** 3.0 == 1 - elementary.power(0.999, 3)
    with exact(), pytest.raises(NotExact, match="NAdam"):
        torch.optim.NAdam([nn.Parameter(torch.ones(2))]).step()


# Order


@pytest.fixture
def shuffled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add every sum of a matrix product, and of a tensor along a dimension, in a random order of its terms."""
    draws = torch.Generator().manual_seed(0)
    matmul, sums, index_add = Tensor.__matmul__, Tensor.sum, Tensor.index_add_

    def product(a: Tensor, b: Tensor) -> Tensor:
        order = torch.randperm(a.shape[-1], generator=draws)
        return matmul(a[..., order], b[..., order, :])

    def summed(x: Tensor, dim: Any = None, **how: Any) -> Tensor:
        for each in range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim:
            x = x.index_select(each, torch.randperm(x.shape[each], generator=draws))
        return sums(x, dim, **how)

    def added(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
        order = torch.randperm(len(index), generator=draws)
        return index_add(x, dim, index[order], source.index_select(dim, order))

    monkeypatch.setattr(Tensor, "__matmul__", product)
    monkeypatch.setattr(Tensor, "sum", summed)
    monkeypatch.setattr(Tensor, "index_add_", added)
    return


@pytest.mark.parametrize("name", SETTINGS)
def test_order_of_no_sum_changes_a_bit(name: str, request: pytest.FixtureRequest) -> None:
    """At six times the rate too."""
    rates = [{}, {"learning_rate": 0.06, "muon_learning_rate": 0.12}]
    before = [result(name, **rate) for rate in rates]
    request.getfixturevalue("shuffled")
    assert [result(name, **rate) for rate in rates] == before


@pytest.mark.parametrize("name", plain.MODELS)
def test_order_changes_no_bit_of_plain_pytorch(name: str, request: pytest.FixtureRequest) -> None:
    """Of a nanoGPT, an LSTM and others, with five optimizers each."""
    before = plain.digest(name, 2)
    request.getfixturevalue("shuffled")
    assert plain.digest(name, 2) == before


@pytest.mark.parametrize("module", [grid, functions])
def test_without_grids_the_order_does_change_bits(
    module: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """So the test above can fail. Of float64: rounding to float32 hides most last bits of a single layer."""

    def attention() -> list[bytes]:
        draws = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 2, 2, 30, 8)))
        q, k, v = (draw.requires_grad_() for draw in draws)
        with exact():
            found = F.scaled_dot_product_attention(F.rms_norm(q, (8,)), k, v, is_causal=True)
            gradients = torch.autograd.grad((found * found.detach()).sum(), (q, k, v))
        return [tensor.detach().numpy().tobytes() for tensor in (found, *gradients)]

    exactly = attention()
    with monkeypatch.context() as changed:
        changed.setattr(module, "on_grid", lambda x, bits, largest: x)
        changed.setattr(module, "snapped", lambda x, bits, dim=None: x.double() / 3 * 3)
        before = attention()
        request.getfixturevalue("shuffled")
        assert attention() != before
    assert attention() == exactly


def test_product_depends_on_no_other_row() -> None:
    a, b = torch.randn(5, 30), torch.randn(30, 4)
    assert torch.equal(product(a, b)[2], product(a[2:3], b)[0])
    assert torch.equal(on_grid(a[2], 20, a[2].abs().max()).double(), snapped(a, 20, -1)[2])


def test_micro_batches_are_added_in_any_order_and_to_the_last_digits() -> None:
    """In float32 five of them had no room on their grid, and small gradients had few digits."""
    rng = np.random.default_rng(0)
    found = [
        (torch.tensor(3.4), [torch.from_numpy((rng.normal(size=500) * 1e-5).astype(np.float32))]) for _ in range(16)
    ]
    [mean] = _exact_mean(found, 16, None)[1]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(16)
        assert torch.equal(_exact_mean([found[place] for place in order], 16, None)[1][0], mean)
    torch.testing.assert_close(mean, torch.stack([g for _, [g] in found]).double().mean(0).float(), rtol=1e-5, atol=0)


# What passes and what is refused

REFUSED = {
    "prod": lambda: torch.rand(3).prod(),
    "svd": lambda: torch.linalg.svd(torch.eye(3)),
    "fft": lambda: torch.fft.fft(torch.ones(4)),
    "complex": lambda: torch.ones(2, dtype=torch.complex64) * 2,
    "remainder": lambda: torch.ones(3) % 0.7,
    "scatter": lambda: torch.zeros(3).scatter(0, torch.tensor([0, 0]), torch.ones(2), reduce="add"),
    "bincount": lambda: torch.bincount(torch.tensor([0, 0]), weights=torch.ones(2)),
    "round": lambda: torch.ones(2).round(decimals=1),
    "cdist": lambda: torch.cdist(torch.ones(2, 2), torch.ones(2, 2)),
    "norm of order 3": lambda: torch.linalg.vector_norm(torch.ones(3), 3),
    "out": lambda: torch.add(torch.ones(2), 1, alpha=0.5, out=torch.empty(2)),
    "bernoulli of many": lambda: torch.multinomial(torch.ones(5), 3),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_exact_form_is_refused_by_its_name(what: str) -> None:
    with exact(), pytest.raises(NotExact, match="has no exact form") as err:
        REFUSED[what]()
    assert what in str(err.value) or "aten." in str(err.value) or "multinomial" in str(err.value)


def test_whole_numbers_pass() -> None:
    index = torch.arange(10)
    with exact():
        assert index.sum() == 45
        assert (index % 3).bincount().tolist() == [4, 3, 3]
        assert (index @ index).item() == 285


def test_every_operation_of_pytorch_has_one_rule_and_every_name_in_the_tables_is_one_of_pytorchs() -> None:
    names = {name.partition(".")[0].removeprefix("aten::") for name in torch._C._dispatch_get_all_op_names()}
    tables = MOVES | ROUNDS | HANDLED.keys() | PARTS.keys()
    assert len(tables) == len(MOVES) + len(ROUNDS) + len(HANDLED) + len(PARTS)
    assert {name for name in tables if not {name, f"{name}_"} & names} == set()
    rules: dict[str, int] = {}
    for name in torch._C._dispatch_get_all_op_names():
        space, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if space == "aten":
            func = getattr(getattr(torch.ops.aten, packet), overload or "default", None)
            rule = "no operator" if func is None else mode.rule_of(func).__name__
            rules[rule] = rules.get(rule, 0) + 1
    assert sum(rules.values()) > 3000
    assert set(rules) <= {
        "passed", "rounded", "handled", "in_place", "taken_apart", "one_by_one", "whole_or_refused", "no operator",
    }  # fmt: skip
    assert rules["whole_or_refused"] > 1000


MOVED: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "neg": lambda p: -p,
    "relu": lambda p: max(p, 0.0),
    "ceil": lambda p: float(np.ceil(p)),
    "floor": lambda p: float(np.floor(p)),
    "trunc": lambda p: float(np.trunc(p)),
    "round": lambda p: float(np.rint(p)),
    "sign": lambda p: float((p > 0) - (p < 0)),
}


MOVED_PAIRS: dict[str, Callable[..., Any]] = {
    "maximum": max,
    "minimum": min,
    "fmax": max,
    "fmin": min,
    "copysign": math.copysign,
    "heaviside": lambda p, q: q if p == 0 else float(p > 0),
    "gt": lambda p, q: p > q,
    "le": lambda p, q: p <= q,
    "eq": lambda p, q: p == q,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*MOVED, *MOVED_PAIRS])
def test_operations_that_round_nothing_are_pythons(name: str, dtype: Any) -> None:
    numbers = arithmetic.numbers(100_000, dtype)
    numbers[::2] *= -1
    others = np.random.default_rng(1).permutation(numbers)
    operands = [numbers] if name in MOVED else [numbers, others]
    with exact():
        found = getattr(torch, name)(*map(torch.from_numpy, operands))
    rule = (MOVED | MOVED_PAIRS)[name]
    assert found.tolist() == [rule(*values) for values in zip(*(x.tolist() for x in operands), strict=True)]


def test_conversions_round_to_the_nearest() -> None:
    numbers = arithmetic.numbers(100_000)
    with np.errstate(over="ignore"):
        assert np.array_equal(torch.from_numpy(numbers).float().numpy(), numbers.astype(np.float32))
    whole = np.random.default_rng(0).integers(-(2**62), 2**62, 100_000)
    assert torch.from_numpy(whole).float().tolist() == [float(np.float32(value)) for value in whole.tolist()]


# Draws


def test_draws_come_from_torchs_seed_alone() -> None:
    def drawn(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        with exact():
            weights = torch.tensor([0.1, 0.2, 0.7]).expand(200, 3)
            return [
                torch.randn(1000),
                torch.rand(1000),
                F.dropout(torch.ones(1000), 0.1),
                torch.multinomial(weights, 1),
            ]

    with torch.random.fork_rng():
        first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    normal, uniform, dropped, chosen = first
    assert abs(normal.mean()) < 0.1
    assert normal.std().item() == pytest.approx(1, abs=0.1)
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.05)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.1, abs=0.04)
    assert dropped.max().item() == pytest.approx(1 / 0.9)
    assert chosen.float().mean().item() == pytest.approx(1.6, abs=0.2)


# The package


def test_powers_of_negative_numbers_are_pytorchs() -> None:
    bases, exponents = torch.tensor([-2.0, -2.0, -2.0, 2.0, 0.0, 0.0]), torch.tensor([3.0, 2.0, 0.5, -1.5, 0.0, 2.0])
    expected = bases**exponents
    with exact():
        torch.testing.assert_close(bases**exponents, expected, equal_nan=True)
        torch.testing.assert_close(torch.eye(3)[:, :2].t() @ torch.ones(3), torch.ones(2))


def test_settings_of_pytorch_are_left_as_they_were_and_a_block_can_be_used_again() -> None:
    before = torch._C._get_mkldnn_enabled(), torch._C._get_flash_sdp_enabled()
    for _ in range(2):
        with exact(), pytest.raises(NotExact):
            torch.ones(3).prod()
    assert (torch._C._get_mkldnn_enabled(), torch._C._get_flash_sdp_enabled()) == before
    assert torch.ones(3).prod().item() == 1


@pytest.mark.long
def test_package_alone_trains_the_example_of_its_page(tmp_path: Path) -> None:
    """With torch and numpy and none of the other packages, and none of charlm's other modules."""
    page = (PROJECT / "docs/exact.md").read_text()
    [example] = [block.split("```")[0] for block in page.split("```python\n")[1:] if "nn.LSTM" in block]
    (tmp_path / "example.py").write_text(
        "import sys\n"
        "for name in ('pydantic', 'click', 'mlflow', 'dvc', 'safetensors', 'ruamel', 'httpx', 'rich', 'filelock'):\n"
        "    sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(PROJECT)!r})\n{example}\n"
        "assert not [n for n in sys.modules if n.startswith('charlm.') and not n.startswith('charlm.exact')]\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "example.py"], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout
        for environment in ({}, {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"})
    }
    assert len(found) == 1
