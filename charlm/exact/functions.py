"""Whole functions that take fewer steps than their operations would: a product's operands are put on a grid once.

Each is an autograd function whose steps no mode sees. It returns None for arguments that it does not know; PyTorch then
takes it apart into operations.

| product | terms K | first operand | bits | second operand | bits |
|---|---|---|---|---|---|
| x W'    | C in    | activations, a grid for each position | (53 - log2 K) / 2 | weights, one grid | as many |
| g W     | C out   | gradients, one grid | at most 53 - log2 K - those of W | weights, as above | |
| g' x    | B × T   | gradients, as above | at most (53 - log2 K) / 2 | activations, one grid | the rest |
| q k'    | D       | queries, a grid for each position | (53 - log2 K) / 2 | keys, likewise | as many |
| p v     | S, at least 1,024 | exp(scores) × size of v, a grid for each position | 20 | v / its size | the rest |

A grid for each position keeps a position independent of the others: what it becomes does not depend on the window's
later characters, on the batch or on a cache, to the bit.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F  # noqa: N812

from charlm.exact.elementary import MANTISSA, bits_of, exp
from charlm.exact.grid import largest, on_grid, operand_bits, power_above, short_total, snapped
from charlm.exact.operations import sqrt

_POSITIONS = 2**10
_LIKELY_BITS = 20  # of exp(scores) at so many positions
_WIDTHS = {torch.float32, torch.float64}


def _unseen(method: Callable[..., Any]) -> Callable[..., Any]:
    """`method`, whose operations no mode sees."""

    @functools.wraps(method)
    def run(*args: Any) -> Any:
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            return method(*args)

    return run


class _Linear(Function):
    @staticmethod
    @_unseen
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.bits, ctx.bias = operand_bits(weight.shape[1]), bias is not None
        on_one_grid = snapped(weight, ctx.bits)
        ctx.save_for_backward(x, on_one_grid)
        y = snapped(x, ctx.bits, -1) @ on_one_grid.T
        y = y.to(x.dtype)
        return y if bias is None else y.add_(bias)

    @staticmethod
    @_unseen
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        shape, dtype = x.shape, x.dtype
        gradient, x = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, shape[-1])  # (N, C'), (N, C)
        room = MANTISSA - bits_of(len(x))
        bits = min(room // 2, MANTISSA - bits_of(weight.shape[0]) - ctx.bits)
        gradient = snapped(gradient, bits)
        of_x = (gradient @ weight).to(dtype).view(shape) if ctx.needs_input_grad[0] else None
        of_weight = (gradient.T @ snapped(x, room - bits)).to(dtype)
        return of_x, of_weight, gradient.sum(0).to(dtype) if ctx.bias else None


class _RMSNorm(Function):
    @staticmethod
    @_unseen
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        mean = short_total(x * x, -1, keepdim=True).div_(x.shape[-1])
        scale = (1 / sqrt(mean.add_(eps))).to(x.dtype)  # (..., 1)
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @_unseen
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        along = short_total(gradient * y, -1, keepdim=True).div_(y.shape[-1]).to(y.dtype)
        return (gradient - y * along).mul_(scale), None


class _Attention(Function):
    """exp(scores) v / sum(exp(scores)): dividing last, of D numbers in place of S."""

    @staticmethod
    @_unseen
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
        bits, reads = operand_bits(q.shape[-1]), max(k.shape[-2], _POSITIONS)
        ctx.scale, q = scale, q * scale
        scores = (snapped(q, bits, -1) @ snapped(k, bits, -1).mT).to(q.dtype)  # (B, H, T, S)
        if causal:
            scores.masked_fill_(torch.ones(scores.shape[-2:], dtype=torch.bool).triu_(1), -math.inf)
        e = exp(scores.sub_(scores.amax(-1, keepdim=True)))
        e = on_grid(e, 22, e.new_ones(()))  # what is not seen becomes 0
        sums = e.sum(-1, keepdim=True, dtype=torch.float64)  # (B, H, T, 1)
        size = power_above(largest(v, -1))  # (B, H, S, 1)
        likely = e * size.mT
        likely_bits = _LIKELY_BITS - (bits_of(reads) - bits_of(_POSITIONS)) // 2
        likely = on_grid(likely, likely_bits, likely.amax(-1, keepdim=True))
        values = on_grid(v / size, MANTISSA - bits_of(reads) - likely_bits, v.new_ones(()))
        y = likely.double() @ values.double()
        y = y.div_(sums).to(q.dtype)  # (B, H, T, D)
        ctx.save_for_backward(q, k, v, e.div_(sums.to(e.dtype)), y)
        return y

    @staticmethod
    @_unseen
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, p, y = ctx.saved_tensors
        bits, matrix = operand_bits(max(p.shape[-2:])), (-2, -1)
        along = short_total(gradient * y, -1, keepdim=True).to(p.dtype)  # (B, H, T, 1)
        on_one_grid = snapped(gradient, operand_bits(max(gradient.shape[-2:])), matrix)
        of_v = (on_grid(p, bits, p.new_ones(())).double().mT @ on_one_grid).to(v.dtype)
        of_p = (on_one_grid @ snapped(v, operand_bits(max(v.shape[-2:])), matrix).mT).to(p.dtype)
        of_scores = snapped(of_p.sub_(along).mul_(p), bits, matrix)
        of_q = (of_scores @ snapped(k, bits, matrix)).mul_(ctx.scale).to(q.dtype)
        return of_q, (of_scores.mT @ snapped(q, bits, matrix)).to(k.dtype), of_v, None, None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:  # noqa: A002 PyTorch's name
    if input.dtype not in _WIDTHS or input.dtype != weight.dtype or weight.ndim != 2 or input.numel() == 0:
        return None
    return _apply(_Linear, input, weight, bias)


def _rms_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor | None:
    if input.dtype not in _WIDTHS or tuple(normalized_shape) != (input.shape[-1],):
        return None
    y = _apply(_RMSNorm, input, torch.finfo(input.dtype).eps if eps is None else eps)
    return y if weight is None else y * weight


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    if attn_mask is not None or dropout_p or enable_gqa or query.dtype not in _WIDTHS:
        return None
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    return _apply(_Attention, query, key, value, is_causal, scale)


FUNCTIONS: dict[Any, Callable[..., Tensor | None]] = {
    F.linear: _linear,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.scaled_dot_product_attention: _attention,
}


def _apply(function: type[Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result
