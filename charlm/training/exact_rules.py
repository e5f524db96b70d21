"""The update rules of `charlm.training.optimizer` from correctly rounded operations and exact sums alone.

They differ from PyTorch's in the last bits, and Muon's orthogonalisation in that it computes in more than bfloat16. See
`charlm.models.exact` for how a sum becomes exact. float64, on the CPU.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS

from charlm.models.elementary import MANTISSA, bits_of, power
from charlm.models.exact import BeyondGridError, on_fixed_grid, operand_bits, snapped, total

Array = NDArray[np.float64]


_STEP = 2.0**-40
"""Of the grid on which the gradients of micro-batches are added."""


def mean(
    found: Sequence[tuple[Tensor, list[Tensor]]], count: int, add: Callable[[Tensor], None] | None
) -> tuple[Tensor, list[Tensor]]:
    """The mean of the losses and of the gradients of `count` micro-batches, of which this process has `found`.

    `add` adds to a tensor those of the other processes. In whatever order, each number is a whole number of steps.
    """
    bits = min(MANTISSA - 2, MANTISSA - bits_of(count))
    limit, sums = 2.0**bits * _STEP, None
    for loss, gradients in found:
        row = torch.cat([loss.view(1), *(gradient.flatten() for gradient in gradients)])
        if (largest := row.abs().max().item()) > limit:
            raise BeyondGridError("a gradient of a micro-batch", largest, limit)
        row = on_fixed_grid(row, bits, limit)
        sums = row if sums is None else sums.add_(row)
    assert sums is not None
    if add is not None:
        add(sums)
    shapes = [torch.Size([]), *(gradient.shape for gradient in found[0][1])]
    parts = torch.split(sums.div_(count), [shape.numel() for shape in shapes])
    loss, *gradients = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
    return loss, gradients


def norm(tensors: Sequence[Tensor]) -> float:
    """The root of the sum of all squares."""
    return math.sqrt(math.fsum(total(tensor.square().flatten()).item() for tensor in tensors))


def adamw(
    weight: Array,
    gradient: Array,
    mean: Array,
    square: Array,
    *,
    step: int,
    rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """One step of AdamW, in place; NumPy's square root is correctly rounded, PyTorch's is not."""
    with np.errstate(all="ignore"):  # the loss of weights that are no numbers ends the training run
        scratch = gradient * (1 - beta1)
        mean *= beta1
        mean += scratch
        np.multiply(gradient, gradient, out=scratch)
        scratch *= 1 - beta2
        square *= beta2
        square += scratch
        np.multiply(square, 1 / (1 - power(beta2, step)), out=scratch)
        np.sqrt(scratch, out=scratch)
        scratch += epsilon
        np.divide(mean, scratch, out=scratch)
        scratch *= rate / (1 - power(beta1, step))
        weight *= 1 - rate * weight_decay
        weight -= scratch


def muon(matrix: Tensor, gradient: Tensor, momentum: Tensor, *, rate: float, decay: float, weight_decay: float) -> None:
    """One step of Muon with Nesterov momentum that keeps `decay` of itself, in place."""
    gradient = gradient * (1 - decay)
    momentum.mul_(decay).add_(gradient)
    update = orthogonal(gradient.add_(momentum * decay))
    rows, columns = matrix.shape
    update.mul_(rate * math.sqrt(max(1.0, rows / columns)))
    matrix.mul_(1 - rate * weight_decay).sub_(update)


def orthogonal(x: Tensor) -> Tensor:
    """The nearest matrix to `x` whose singular values are about 1: five Newton-Schulz steps."""
    if x.shape[0] > x.shape[1]:
        return orthogonal(x.T).T
    bits = operand_bits(x.shape[1])
    x = x / max(norm([x]), EPS)
    for _ in range(DEFAULT_NS_STEPS):
        operand = snapped(x, bits)
        gram = operand @ operand.T  # (R, R)
        square = snapped(gram, bits)
        polynomial = (square @ square.T).mul_(DEFAULT_C).add_(gram.mul_(DEFAULT_B))
        x = (snapped(polynomial, bits) @ operand).add_(x.mul_(DEFAULT_A))
    return x
