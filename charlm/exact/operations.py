"""What each of PyTorch's operations becomes: passed, computed here, taken apart, or refused.

| | |
|---|---|
| MOVES | move, choose, compare or count numbers, and round nothing |
| ROUNDS | one IEEE operation per number, correctly rounded on every CPU |
| HANDLED | add, or compute an elementary function: here, with the sums of `charlm.exact.grid` |
| taken apart | all that PyTorch itself can express in others: its composites and its table of decompositions |

`PARTS` are taken apart here rather than there, where PyTorch's way has more steps. Anything else is refused. Operations
on whole numbers pass. `tests/charlm/exact/test_exact.py` compares those that pass with Python's arithmetic.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charlm.exact.elementary import (
    MANTISSA,
    bits_of,
    bounded_exp,
    erf,
    expm1,
    log,
    power,
    sine_and_cosine,
    tanh,
)
from charlm.exact.errors import NotExact
from charlm.exact.grid import Dims, operand_bits, product, snapped, total
from charlm.exact.random import chosen, normal, uniform

aten = torch.ops.aten

MOVES = frozenset(
    """
    _assert_async _local_scalar_dense _pin_memory _reshape_alias _reshape_copy _to_copy _unique2 _unsafe_view abs
    alias all amax amin aminmax any argmax argmin argsort as_strided_ as_strided_scatter bitwise_and bitwise_not
    bitwise_or bitwise_xor broadcast_tensors bucketize cat ceil clamp clamp_max clamp_min clone constant_pad_nd
    contiguous copy copy_ copysign cummax cummin detach_ diag_embed diagonal_scatter embedding empty empty_like
    empty_permuted empty_strided eq equal eye fill fill_ flip floor fmax fmin full full_like gather ge gt heaviside
    index index_copy index_fill index_select is_same_size isfinite isin isinf isnan kthvalue le lift lift_fresh
    logical_and logical_not logical_or logical_xor lt masked_fill masked_scatter masked_select max
    max_pool2d_with_indices max_pool3d_with_indices maximum median min minimum mode msort nan_to_num nanmedian ne
    neg new_empty new_empty_strided new_full new_ones new_zeros nextafter nonzero nonzero_static ones ones_like
    randint randint_like random randperm relu repeat repeat_interleave resize_ roll rot90 round scalar_tensor
    scatter searchsorted select_scatter set_ sgn sign signbit slice_scatter sort split_with_sizes_copy squeeze_
    stack swapaxes_ sym_numel sym_size sym_storage_offset sym_stride t_ threshold threshold_backward topk
    trace_backward transpose_ tril tril_indices triu triu_indices trunc unique_consecutive unique_dim unsafe_split
    unsafe_split_with_sizes unsqueeze_ where zero zero_ zeros zeros_like
    """.split()  # noqa: SIM905 one a line would be a page
)
NOT_MOVES = frozenset({"decimals", "reduce", "value_reduce"})
"""Overloads of these that multiply or add after all."""
ROUNDS = frozenset({"add", "sub", "mul", "div", "reciprocal"})
REAL = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
WHOLE = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool}

HANDLED: dict[str, Callable[..., Any]] = {}
"""By name; called outside of the mode."""
PARTS: dict[str, Callable[..., Any]] = {}
"""By name; called inside of the mode, which then sees their operations."""


def _handles(table: dict[str, Callable[..., Any]], *names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def registered(function: Callable[..., Any]) -> Callable[..., Any]:
        table.update(dict.fromkeys(names, function))
        return function

    return registered


# Sums


@_handles(HANDLED, "sum")
def _sum(x: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    return total(x, dim or None, keepdim=keepdim).to(dtype or x.dtype)


@_handles(HANDLED, "mean")
def _mean(x: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    sums = total(x, dim or None, keepdim=keepdim)
    return sums.div_(x.numel() // max(1, sums.numel())).to(dtype or x.dtype)


def _spread(name: str) -> Callable[..., Any]:
    """Variance or its root, with or without the mean."""

    def function(
        x: Tensor,
        dim: Dims | bool = None,
        unbiased: bool = True,
        keepdim: bool = False,
        *,
        correction: float | None = None,
    ) -> Any:
        if isinstance(dim, bool):
            unbiased, dim = dim, None
        mean = total(x, dim or None, keepdim=True)
        count = x.numel() // max(1, mean.numel())
        squares = x.double().sub(mean.div_(count)).square_()
        freedom = max(0, count - (int(unbiased) if correction is None else correction))
        found = total(squares, dim or None, keepdim=keepdim).div_(freedom)
        found = (sqrt(found) if "std" in name else found).to(x.dtype)
        return (found, mean.view(found.shape).to(x.dtype)) if "mean" in name else found

    return function


HANDLED |= {name: _spread(name) for name in ("var_mean", "var", "std_mean", "std")}


@_handles(HANDLED, "cumsum")
def _cumsum(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    bits = min(MANTISSA - 2, MANTISSA - bits_of(x.shape[dim] if x.ndim else 1))
    return snapped(x.double(), bits, dim).cumsum(dim).to(dtype or x.dtype)


@_handles(HANDLED, "linalg_vector_norm")
def _norm(
    x: Tensor,
    order: float = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    if order == 2:
        return sqrt(total(x.double().square(), dim, keepdim=keepdim)).to(dtype or x.dtype)
    if order == 1:
        return total(x.abs(), dim, keepdim=keepdim).to(dtype or x.dtype)
    raise NotExact(f"a norm of order {order}", "Orders 1 and 2 are.")


@_handles(HANDLED, "mm", "bmm", "mv", "dot")
def _product(a: Tensor, b: Tensor) -> Tensor:
    if b.ndim == 1:
        return (product(a.reshape(-1, a.shape[-1]), b[:, None]).squeeze(-1).view(a.shape[:-1])).to(a.dtype)
    return product(a, b).to(a.dtype)


@_handles(HANDLED, "addmm", "baddbmm", "addmv")
def _added_product(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    y: Tensor = _product(a, b)  # rounded before it is added to: PyTorch calls this or mm and add, as the shapes have it
    y = y if alpha == 1 else y.mul_(alpha)
    return y if beta == 0 else y.add_(x if beta == 1 else x * beta)


def _sums_of(function: Callable[..., Tensor], x: Tensor, terms: int) -> Tensor:
    """`function`, which does nothing but add up to `terms` of the numbers of `x`."""
    return function(snapped(x.double(), min(MANTISSA - 2, MANTISSA - bits_of(max(1, terms))))).to(x.dtype)


@_handles(HANDLED, "embedding_dense_backward")
def _embedding_backward(gradient: Tensor, index: Tensor, rows: int, padding: int, by_frequency: bool) -> Tensor:
    if by_frequency:
        raise NotExact("an embedding with scale_grad_by_freq")
    gradient, index = gradient.flatten(0, -2) if gradient.ndim > 2 else gradient, index.flatten()
    found = _sums_of(
        lambda x: x.new_zeros(rows, x.shape[1]).index_add_(0, index, x), gradient.reshape(len(index), -1), len(index)
    )
    if padding >= 0:
        found[padding] = 0
    return found


@_handles(HANDLED, "index_add")
def _index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    zeros = torch.zeros(x.shape, dtype=torch.float64)
    return x + _sums_of(lambda y: zeros.index_add_(dim, index, y), source, len(index)) * alpha


@_handles(HANDLED, "scatter_add")
def _scatter_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    zeros = torch.zeros(x.shape, dtype=torch.float64)
    return x + _sums_of(lambda y: zeros.scatter_add_(dim, index, y), source, index.shape[dim] if index.ndim else 1)


@_handles(HANDLED, "index_put", "_unsafe_index_put")
def _index_put(x: Tensor, index: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    put: Callable[..., Tensor] = aten.index_put
    if not accumulate:
        return put(x, index, values)
    zeros = torch.zeros(x.shape, dtype=torch.float64)
    terms = math.prod(part.numel() for part in index if part is not None)
    return x + _sums_of(lambda y: put(zeros, index, y, True), values, terms)


@_handles(HANDLED, "max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward")
def _max_pool_backward(gradient: Tensor, x: Tensor, kernel: Sequence[int], *others: Any) -> Tensor:
    function = aten.max_pool2d_with_indices_backward if len(kernel) == 2 else aten.max_pool3d_with_indices_backward
    return _sums_of(lambda y: function(y, x.double(), kernel, *others), gradient, int(np.prod(kernel)))


@_handles(HANDLED, "convolution")
def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    bits = operand_bits(weight.numel() // weight.shape[1 if how[3] else 0])
    y: Tensor = aten.convolution(snapped(x, bits), snapped(weight, bits), None, *how)
    if bias is not None:
        y += bias.view(-1, *[1] * (y.ndim - 2))
    return y.to(x.dtype)


@_handles(HANDLED, "convolution_backward")
def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, biases: Sequence[int] | None, *how: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    *how, wanted = how  # type: ignore[assignment]
    positions = max(side.numel() // side.shape[1] for side in (gradient, x))
    bits = operand_bits(weight.numel() // weight.shape[0 if how[3] else 1]), operand_bits(positions)

    def part(number: int, mask: list[bool]) -> Tensor | None:
        if not wanted[number]:
            return None
        operands = (snapped(operand, bits[number]) for operand in (gradient, x, weight))
        found: Tensor = aten.convolution_backward(*operands, biases, *how, mask)[number]
        return found.to(x.dtype)

    dims = [0, *range(2, gradient.ndim)]
    bias = total(gradient, dims).to(x.dtype) if wanted[2] else None
    return part(0, [True, False, False]), part(1, [False, True, False]), bias


# Elementary functions, in float64 and then rounded


def sqrt(x: Tensor) -> Tensor:
    """Correctly rounded, as NumPy's square root is and PyTorch's is not; in the numbers of `x`."""
    if x.dtype not in {torch.float32, torch.float64}:
        return sqrt(x.float()).to(x.dtype)
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.asarray(np.sqrt(x.detach().numpy())))


def _in_its_width(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x: function(x if x.dtype in {torch.float32, torch.float64} else x.float()).to(x.dtype)


def _in_float64(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x: function(x.double()).to(x.dtype)


def _log1p(x: Tensor) -> Tensor:
    u = x + 1
    return torch.where(u == 1, x, log(u) * x / (u - 1))


def _power(x: Tensor, exponent: float) -> Tensor:
    """`x` in float64 to a whole exponent by squaring, to half of one by a root, else by the logarithm."""
    if exponent < 0:
        return 1 / _power(x, -exponent)
    if exponent % 1 == 0.5:
        return _power(x, exponent - 0.5) * sqrt(x)
    if exponent % 1:
        return bounded_exp(log(x) * exponent)
    result, whole = torch.ones_like(x), int(exponent)
    while whole:
        if whole % 2:
            result = result * x
        x, whole = x * x, whole // 2
    return result


HANDLED |= {
    "sqrt": sqrt,
    "exp": _in_its_width(bounded_exp),
    "rsqrt": _in_float64(lambda x: 1 / sqrt(x)),
    "log": _in_float64(log),
    "log2": _in_float64(lambda x: log(x) / log(np.array(2.0)).item()),
    "log10": _in_float64(lambda x: log(x) / log(np.array(10.0)).item()),
    "log1p": _in_float64(_log1p),
    "exp2": _in_float64(lambda x: bounded_exp(x * log(np.array(2.0)).item())),
    "expm1": _in_float64(expm1),
    "tanh": _in_its_width(tanh),
    "sigmoid": _in_its_width(lambda x: 1 / (1 + bounded_exp(-x))),
    "erf": _in_float64(erf),
    "sin": _in_float64(lambda x: sine_and_cosine(x)[0]),
    "cos": _in_float64(lambda x: sine_and_cosine(x)[1]),
}


@_handles(HANDLED, "pow")
def _pow(x: Tensor | float, exponent: Tensor | float) -> Tensor:
    if isinstance(exponent, Tensor):
        dtype = exponent.dtype if not isinstance(x, Tensor) else torch.result_type(x, exponent)
        base = x.double() if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)
        size = bounded_exp(log(base.abs()) * exponent.double())
        odd = exponent.double().remainder(2) == 1  # a negative base has powers to whole exponents alone
        signed = torch.where(odd, -size, torch.where(exponent == exponent.trunc(), size, math.nan))
        return torch.where(exponent == 0, 1.0, torch.where(base < 0, signed, size)).to(dtype)
    assert isinstance(x, Tensor)
    if exponent in {1, 2}:
        return x.clone() if exponent == 1 else x * x
    return _power(x.double(), exponent).to(x.dtype)


# Random draws


def _filled(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The factory of new numbers: by a shape, or like a tensor."""

    def factory(like: Any, *, dtype: Any = None, generator: torch.Generator | None = None, **_: Any) -> Tensor:
        is_tensor = isinstance(like, Tensor)
        dtype = dtype or (like.dtype if is_tensor else torch.get_default_dtype())
        return draw(like.shape if is_tensor else like, generator).to(dtype)

    return factory


def _bernoulli(x: Tensor, p: Any = None, *, generator: torch.Generator | None = None) -> Tensor:
    if isinstance(p, float):
        return chosen(x.shape, p, generator).to(x.dtype)
    return (uniform(x.shape, generator) < (x if p is None else p)).to(x.dtype)


def _uniform(x: Tensor, low: float = 0, high: float = 1, *, generator: torch.Generator | None = None) -> Tensor:
    return uniform(x.shape, generator).mul_(high - low).add_(low).to(x.dtype)


def _normal(x: Tensor, mean: float = 0, std: float = 1, *, generator: torch.Generator | None = None) -> Tensor:
    if isinstance(mean, Tensor) or isinstance(std, Tensor) or not isinstance(x, Tensor):
        raise NotExact("normal with tensors for mean or std", "Use torch.randn(...) * std + mean.")
    return normal(x.shape, generator).mul_(std).add_(mean).to(x.dtype)


def _multinomial(
    weights: Tensor,
    count: int,
    replacement: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    if count > 1 and not replacement:
        raise NotExact("multinomial of several without replacement", "Draw with replacement, or one by one.")
    sums = _cumsum(weights.double(), -1)
    drawn = uniform((*weights.shape[:-1], count), generator) * sums[..., -1:]
    return torch.searchsorted(sums, drawn, right=True).clamp(max=weights.shape[-1] - 1)


HANDLED |= {
    "rand": _filled(uniform),
    "rand_like": _filled(uniform),
    "randn": _filled(normal),
    "randn_like": _filled(normal),
    "bernoulli": _bernoulli,
    "uniform": _uniform,
    "normal": _normal,
    "normal_functional": _normal,
    "multinomial": _multinomial,
}


@_handles(HANDLED, "arange")
def _arange(*bounds: float, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    start, end, step = {1: (0, *bounds, 1), 2: (*bounds, 1)}.get(len(bounds), bounds)
    numbers = np.arange(max(0, int(np.ceil((end - start) / step)))) * step + start
    is_float = any(isinstance(bound, float) for bound in bounds)
    return torch.from_numpy(numbers).to(dtype or (torch.get_default_dtype() if is_float else torch.int64))


# Parts that round one after the other where PyTorch fuses them


@_handles(PARTS, "addcmul")
def _addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    return x + (a * b if value == 1 else a * b * value)


@_handles(PARTS, "addcdiv")
def _addcdiv(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    return x + (a if value == 1 else a * value) / b


@_handles(PARTS, "lerp")
def _lerp(x: Tensor, end: Tensor, weight: Any) -> Any:
    return x + (end - x) * weight


@_handles(PARTS, "_softmax")
def _softmax(x: Tensor, dim: int, _half_to_float: bool = False) -> Tensor:
    e = torch.exp(x - x.amax(dim, keepdim=True))
    return e / e.sum(dim, keepdim=True)


@_handles(PARTS, "_log_softmax")
def _log_softmax(x: Tensor, dim: int, _half_to_float: bool = False) -> Tensor:
    x = x - x.amax(dim, keepdim=True)
    return x - torch.exp(x).sum(dim, keepdim=True).log()


@_handles(PARTS, "_softmax_backward_data")
def _softmax_backward(gradient: Tensor, y: Tensor, dim: int, _dtype: torch.dtype) -> Tensor:
    return (gradient - (gradient * y).sum(dim, keepdim=True)) * y


@_handles(PARTS, "_log_softmax_backward_data")
def _log_softmax_backward(gradient: Tensor, y: Tensor, dim: int, _dtype: torch.dtype) -> Tensor:
    return gradient - y.exp() * gradient.sum(dim, keepdim=True)


@_handles(PARTS, "nll_loss_forward")
def _nll_loss(x: Tensor, targets: Tensor, weight: Tensor | None, reduction: int, ignored: int) -> tuple[Tensor, Tensor]:
    kept = targets != ignored
    places = torch.where(kept, targets, 0)
    losses = -x.gather(-1, places[..., None]).squeeze(-1)
    weights = kept.to(x.dtype) if weight is None else torch.where(kept, weight[places], 0)
    losses = losses * weights
    if reduction == 0:
        return losses, x.new_zeros(())
    count = weights.sum()
    return (losses.sum() / count if reduction == 1 else losses.sum()), count


@_handles(HANDLED, "_fused_adamw")
def fused_adamw(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    _largest: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    amsgrad: bool,
    maximize: bool,
    **scaling: Any,
) -> None:
    """One step of AdamW in place, of single roundings in the numbers of the weights."""
    if amsgrad or maximize or any(value is not None for value in scaling.values()):
        raise NotExact("fused AdamW with amsgrad, maximize or gradient scaling", "Use fused=False.")
    with np.errstate(all="ignore"):
        for tensors, step in zip(zip(weights, gradients, means, squares, strict=True), steps, strict=True):
            weight, gradient, mean, square = (tensor.detach().numpy() for tensor in tensors)
            scratch = gradient * (1 - beta1)
            mean *= beta1
            mean += scratch
            np.multiply(gradient, gradient, out=scratch)
            scratch *= 1 - beta2
            square *= beta2
            square += scratch
            np.multiply(square, 1 / (1 - power(beta2, int(step))), out=scratch)
            np.sqrt(scratch, out=scratch)
            scratch += eps
            np.divide(mean, scratch, out=scratch)
            scratch *= float(lr) / (1 - power(beta1, int(step)))
            weight *= 1 - float(lr) * weight_decay
            weight -= scratch
