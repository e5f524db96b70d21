"""The operations of `charlm.models.operations` with sums that are exact, so that no order of addition changes a bit.

A floating-point sum depends on its order, and its order on the instructions of the CPU, on the threads and on the
processes. Here the operands of every sum are first rounded to a grid: whole numbers of steps, of so few bits that the
sum in float64 has no rounding left to do. All else is one IEEE operation per kernel, correctly rounded: `+ - * /`, or
1 / sqrt; no logarithm, cosine or power of a library, and none of the kernels that fuse two operations under AVX
(`addcmul`, `lerp`, `add` with alpha).

The budget: a product of two operands of b and c bits over K terms needs b + c + log2(K) <= 53 bits.

| product | terms K | first operand | bits | second operand | bits |
|---|---|---|---|---|---|
| x W'    | C in    | activations, a grid for each position | (53 - log2 K) / 2 | weights, one grid | as many |
| g W     | C out   | gradients, one grid | at most 53 - log2 K - those of W | weights, as above | |
| g' x    | B × T   | gradients, as above | at most (53 - log2 K) / 2 | activations, one grid | the rest |
| q k'    | D       | queries, a grid for each position | (53 - log2 K) / 2 | keys, likewise | as many |
| p v     | S, counted as 1,024 at least | exp(scores), from 0 to 1 | (50 - log2 K) / 2 | values, up to 128 | the rest |

A grid is as fine as its largest number allows, a power of two that is read from the numbers themselves: a maximum is
exact in any order. One for each position keeps a position independent of the others, so that logits do not depend on
the window's later characters, on the batch or on a cache: to the bit. Values in attention have a fixed grid instead,
which the same demands of a sum over positions; one beyond it is an error.

After Ozaki, Ogita, Oishi and Rump, "Error-free transformations of matrix multiplication" (2012), with one slice, and
Demmel and Nguyen, "Parallel reproducible summation" (2015). RepDL (Microsoft, 2024) fixes the order of sums instead.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function

from charlm.errors import CharlmError
from charlm.models.elementary import MANTISSA, bits_of, exp, log, rotations, shift, sum_of_fractions
from charlm.models.operations import Operations

_EXPONENT = 0x7FF0_0000_0000_0000  # of the bits of a float64
_TINY = 2.0**-200  # numbers below it count as 0: their products would leave the normal numbers
_POSITIONS = 2**10
_LIKELY_BITS = 20  # of exp(scores) at so many positions
VALUES = 2.0**7
"""The largest number that attention reads."""


class BeyondGridError(CharlmError):
    """A number is larger than its grid."""

    def __init__(self, what: str, largest: float, limit: float) -> None:
        super().__init__(
            f"{what} is {largest:.3g}, beyond the {limit:g} that can be added exactly", fix="Lower the learning rate."
        )


def operand_bits(terms: int) -> int:
    """Bits of each operand of a product over so many terms."""
    return (MANTISSA - bits_of(terms)) // 2


def snapped(x: Tensor, bits: int, largest: Tensor | None = None) -> Tensor:
    """`x` on a grid of `bits` for its largest number; with `largest`, those of parts of x, on a grid for each."""
    if largest is None:
        largest = x.abs().amax()
    # 2^n <= largest < 2^(n + 1): the exponent's bits alone are 2^n.
    power = (largest.clamp(min=_TINY).view(torch.int64) & _EXPONENT).view(torch.float64)
    power *= shift(bits, 2.0)
    return (x + power).sub_(power)


def by_position(x: Tensor, bits: int) -> Tensor:
    """`x` (..., C) with each vector on a grid of its own."""
    return snapped(x, bits, x.abs().amax(-1, keepdim=True))


def on_fixed_grid(x: Tensor, bits: int, largest: float = 1.0) -> Tensor:
    """`x`, of which no number is beyond `largest`, on the grid of that."""
    grid = shift(bits, largest)
    return (x + grid).sub_(grid)


def total(x: Tensor) -> Tensor:
    """The sums (..., 1) of the vectors of `x` (..., C), rounded to a grid for each."""
    return by_position(x, min(MANTISSA - 2, MANTISSA - bits_of(x.shape[-1]))).sum(-1, keepdim=True)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        bits = operand_bits(weight.shape[1])
        x, weight = by_position(x, bits), snapped(weight, bits)
        ctx.save_for_backward(x, weight)
        ctx.bits, ctx.bias = bits, bias is not None
        y = x @ weight.T
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        y_gradient, x = gradients[0].flatten(0, -2), x.flatten(0, -2)  # (N, C'), (N, C)
        room = MANTISSA - bits_of(len(x))
        bits = min(room // 2, MANTISSA - bits_of(weight.shape[0]) - ctx.bits)
        y_gradient = snapped(y_gradient, bits)
        x_gradient = (y_gradient @ weight).view(*gradients[0].shape[:-1], -1) if ctx.needs_input_grad[0] else None
        weight_gradient = y_gradient.T @ snapped(x, min(room - bits, MANTISSA - 2))
        return x_gradient, weight_gradient, y_gradient.sum(0) if ctx.bias else None


class _Embedding(Function):
    @staticmethod
    def forward(ctx: Any, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(weight)
        vectors: Tensor = weight[index]
        return vectors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        (index,), gradient = ctx.saved_tensors, gradients[0].flatten(0, -2)  # (N, C)
        gradient = snapped(gradient, min(MANTISSA - 2, MANTISSA - bits_of(len(gradient))))
        return None, gradient.new_zeros(ctx.rows, gradient.shape[1]).index_add_(0, index.flatten(), gradient)


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        mean = total(x * x).div_(x.shape[-1])
        scale = mean.add_(torch.finfo(torch.float32).eps).rsqrt_()  # (..., 1)
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        along = total(gradients[0] * y).div_(y.shape[-1])
        across: Tensor = gradients[0] - y * along
        return across.mul_(scale)


class _ReluSquared(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clamp(min=0)
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        half: Tensor = gradients[0] * ctx.saved_tensors[0]
        return half.mul_(2)


def tanh(x: Tensor) -> Tensor:
    """(1 - e) / (1 + e) with e = exp(-2 |x|), and the sign of `x`."""
    e = exp(x.abs().mul_(-2))
    return (1 - e).div_(e.add_(1)).copysign_(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), as (1 + tanh(x / 2)) / 2."""
    return tanh(x * 0.5).mul_(0.5).add_(0.5)


class _Tanh(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        y = ctx.saved_tensors[0]
        slope: Tensor = 1 - y * y
        return slope.mul_(gradients[0])


class _Attention(Function):
    """exp(scores) v / sum(exp(scores)): dividing last, of D numbers in place of S."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:  # noqa: FBT001 autograd has no keywords
        size, reads = q.shape[-1], max(k.shape[-2], _POSITIONS)
        if (largest := v.abs().max().item()) > VALUES:
            raise BeyondGridError("a value of attention", largest, VALUES)
        ctx.bits, ctx.scale = operand_bits(size), 1 / math.sqrt(size)
        q, k = by_position(q * ctx.scale, ctx.bits), by_position(k, ctx.bits)
        likely_bits = _LIKELY_BITS - (bits_of(reads) - bits_of(_POSITIONS)) // 2
        ctx.value_bits = MANTISSA - bits_of(reads) - likely_bits
        v = on_fixed_grid(v, ctx.value_bits, VALUES)
        e = q @ k.mT  # (B, H, T, S)
        if causal:
            e.masked_fill_(torch.ones(e.shape[-2:], dtype=torch.bool).triu_(1), -math.inf)
        e = on_fixed_grid(exp(e.sub_(e.amax(-1, keepdim=True))), likely_bits)
        sums = e.sum(-1, keepdim=True)  # (B, H, T, 1)
        y = (e @ v).div_(sums)  # (B, H, T, D)
        ctx.save_for_backward(q, k, v, e, sums, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, e, sums, y = ctx.saved_tensors
        reads = max(k.shape[-2], q.shape[-2], _POSITIONS)
        bits = operand_bits(reads)
        gradient = gradients[0] / sums
        along = total(gradient * y)  # (B, H, T, 1)
        gradient = snapped(gradient, min(bits, MANTISSA - bits_of(y.shape[-1]) - ctx.value_bits))
        v_gradient = e.mT @ gradient
        scores = (gradient @ v.mT).sub_(along).mul_(e)
        scores = snapped(scores, bits)
        q_gradient = (scores @ snapped(k, bits)).mul_(ctx.scale)
        return q_gradient, scores.mT @ snapped(q, bits), v_gradient, None


class _Losses(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        shifted = logits - logits.amax(-1, keepdim=True)  # (N, V)
        e = exp(shifted)
        sums = sum_of_fractions(e)  # (N, 1)
        ctx.save_for_backward(e.div_(sums), targets)
        return torch.from_numpy(log(sums.numpy())).sub_(shifted.gather(-1, targets[:, None])).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        probabilities, targets = ctx.saved_tensors
        difference = probabilities.clone()
        difference[torch.arange(len(targets)), targets] -= 1
        return difference.mul_(gradients[0][:, None]), None


class _Mean(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        return total(x).squeeze(-1).div_(len(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].div(ctx.count).expand(ctx.count)


class _Recurrence(Function):
    """The states of gated recurrent units, from what the inputs (B, T, 3 H) add to their gates; Cho et al. 2014."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        size = weight.shape[1]
        bits = operand_bits(size)
        weight = snapped(weight, bits)
        states, before, gates, candidates, hidden = [], [], [], [], []
        for x in inputs.unbind(1):  # (B, 3 H)
            before.append(on_fixed_grid(state, bits))
            h = (before[-1] @ weight.T).add_(bias)  # (B, 3 H)
            gates.append(sigmoid(x[:, : 2 * size] + h[:, : 2 * size]))
            reset, keep = gates[-1].chunk(2, -1)
            hidden.append(h[:, 2 * size :])
            candidates.append(tanh((hidden[-1] * reset).add_(x[:, 2 * size :])))
            state = ((1 - keep) * candidates[-1]).add_(keep * before[-1])
            states.append(state)
        ctx.bits = bits
        every = torch.stack(states, 1)
        ctx.save_for_backward(weight, *(torch.stack(part) for part in (before, gates, candidates, hidden)))
        return every

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        weight, before, gates, candidates, hidden = ctx.saved_tensors  # (T, B, ...) but for the first
        size, positions = weight.shape[1], before.shape[0] * before.shape[1]
        bits = min(operand_bits(positions), MANTISSA - bits_of(3 * size) - ctx.bits)
        by_input, by_hidden, later = [], [], torch.zeros_like(before[0])
        for step in reversed(range(len(before))):
            of_state = gradients[0][:, step] + later
            (reset, keep), candidate = gates[step].chunk(2, -1), candidates[step]
            of_candidate = (of_state * (1 - keep)).mul_(1 - candidate * candidate)
            of_gates = torch.cat([of_candidate * hidden[step], of_state * (before[step] - candidate)], -1)
            of_gates.mul_(gates[step]).mul_(1 - gates[step])
            by_input.append(torch.cat([of_gates, of_candidate], -1))
            by_hidden.append(torch.cat([of_gates, of_candidate * reset], -1))
            later = (snapped(by_hidden[-1], bits) @ weight).add_(of_state * keep)
        hidden_gradient = snapped(torch.stack(by_hidden[::-1]).flatten(0, 1), bits)  # (T * B, 3 H)
        room = min(MANTISSA - 2, MANTISSA - bits_of(positions) - bits)
        weight_gradient = hidden_gradient.T @ on_fixed_grid(before.flatten(0, 1), room)
        return torch.stack(by_input[::-1], 1), None, weight_gradient, hidden_gradient.sum(0)


class Exact(Operations):
    """See `Operations`; float64 on the CPU."""

    exact = True

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        """Draws what dropout drops."""

    def seed(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def embedding(self, index: Tensor, layer: nn.Embedding) -> Tensor:
        return _apply(_Embedding, index, layer.weight)

    def linear(self, x: Tensor, layer: nn.Linear) -> Tensor:
        return _apply(_Linear, x, layer.weight, layer.bias)

    def dropout(self, x: Tensor, layer: nn.Dropout) -> Tensor:
        """`x` with each number dropped or not by 16 bits of NumPy's generator, which no thread shares."""
        threshold = round(layer.p * 2**16)
        if not layer.training or threshold == 0:
            return x
        drawn = np.frombuffer(self.rng.bytes(2 * x.numel()), dtype="<u2").reshape(x.shape)
        kept = torch.from_numpy((drawn >= threshold).astype(np.float64))
        return x * kept.mul_(2**16 / (2**16 - threshold))

    def norm(self, x: Tensor) -> Tensor:
        return _apply(_Norm, x)

    def tanh(self, x: Tensor) -> Tensor:
        return _apply(_Tanh, x)

    def relu_squared(self, x: Tensor) -> Tensor:
        return _apply(_ReluSquared, x)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
        return _apply(_Attention, q, k, v, causal)

    def rotations(self, start: int, end: int, size: int, like: Tensor) -> Tensor:  # noqa: ARG002 always float64
        return torch.from_numpy(rotations(-(-end // _POSITIONS) * _POSITIONS, size)[:, start:end])

    def gru(self, x: Tensor, state: Tensor | None, layer: nn.GRU) -> tuple[Tensor, Tensor]:
        inputs = _apply(_Linear, x, layer.weight_ih_l0, layer.bias_ih_l0)  # (B, T, 3 H)
        before = x.new_zeros(len(x), layer.hidden_size) if state is None else state[0]
        states = _apply(_Recurrence, inputs, before, layer.weight_hh_l0, layer.bias_hh_l0)
        return states, states[:, -1][None]

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return _apply(_Losses, logits, targets)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return _apply(_Mean, self.losses(logits, targets))


def _apply(function: type[Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result
