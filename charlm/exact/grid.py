"""Sums and products that are exact, so that no order of addition changes a bit.

A floating-point sum depends on its order, and its order on the instructions of the CPU, on the threads and on the
processes. Here the operands of every sum are first rounded to a grid: whole numbers of steps, of so few bits that the
sum in float64 has no rounding left to do. The budget: a product of two operands of b and c bits over K terms needs
b + c + log2(K) <= 53 bits. A grid is as fine as its largest number allows, a power of two that is read from the numbers
themselves: a maximum is exact in any order.

After Ozaki, Ogita, Oishi and Rump, "Error-free transformations of matrix multiplication" (2012), with one slice, and
Demmel and Nguyen, "Parallel reproducible summation" (2015).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from charlm.exact.elementary import MANTISSA, bits_of, shift

_WIDTHS: dict[torch.dtype, tuple[int, type[np.integer[Any]], int, np.floating[Any]]] = {
    torch.float32: (24, np.int32, 0x7F80_0000, np.float32(2.0**-100)),
    torch.float64: (53, np.int64, 0x7FF0_0000_0000_0000, np.float64(2.0**-200)),
}
"""Bits of a number, the integers of its size, the bits of its exponent, and below what numbers count as 0."""

Dims = int | tuple[int, ...] | list[int] | None


def operand_bits(terms: int) -> int:
    """Bits of each operand of a product over so many terms."""
    return (MANTISSA - bits_of(terms)) // 2


def largest(x: Tensor, dim: Dims = None) -> Tensor:
    """The largest size of a number of `x`, or of each part of it along `dim`, which stays as 1."""
    if dim is None:
        return torch.maximum(x.amax(), -x.amin())
    return torch.maximum(x.amax(dim, keepdim=True), -x.amin(dim, keepdim=True))


def power_above(x: Tensor) -> Tensor:
    """The power of two above each number of `x`, which are not negative; at least 2^-60."""
    mantissa, _ = torch.frexp(x.clamp(min=2.0**-60))
    return x.clamp(min=2.0**-60).div_(mantissa)


def snapped(x: Tensor, bits: int, dim: Dims = None) -> Tensor:
    """`x` in float64, on a grid of at most `bits` for its largest number, or for that of each part along `dim`."""
    return on_grid(x, bits, largest(x, dim)).double()


def on_grid(x: Tensor, bits: int, largest: Tensor) -> Tensor:
    """`x` on a grid of at most `bits` for numbers up to `largest`: of at most 22 in float32, 51 in float64."""
    if x.dtype not in _WIDTHS:
        x, largest = x.float(), largest.float()
    width, integer, exponent, tiny = _WIDTHS[x.dtype]
    # 2^n <= largest < 2^(n + 1): the exponent's bits alone are 2^n. NumPy takes a fifth of PyTorch's time for so few.
    sizes = np.maximum(largest.numpy(), tiny)
    with np.errstate(over="ignore"):
        power = np.asarray((sizes.view(integer) & exponent).view(sizes.dtype) * shift(min(bits, width - 2), 2.0, width))
    steps = torch.from_numpy(power.astype(sizes.dtype, copy=False))
    return (x + steps).sub_(steps)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product (..., N, M) in float64 of `a` (..., N, K) and `b` (..., K, M), exact but for its operands.

    Each row of `a` and each column of `b` has its own grid, so a row of the result depends on no other row.
    """
    if a.shape[-1] == 0:
        return a.double() @ b.double()
    bits = operand_bits(a.shape[-1])
    return snapped(a, bits, -1) @ snapped(b, bits, -2)


def total(x: Tensor, dim: Dims = None, *, keepdim: bool = False) -> Tensor:
    """The sum in float64 of `x`, or of its parts along `dim`, each number rounded to a grid for its part.

    The grid has as many bits as float64 has room for; of a float32 `x` that is all of each number, mostly.
    """
    return short_total(x.double(), dim, keepdim=keepdim)


def short_total(x: Tensor, dim: Dims = None, *, keepdim: bool = False) -> Tensor:
    """The same with a grid of 22 bits for float32: good for some thousand terms, and faster."""
    if x.numel() == 0:
        return x.sum(dim, keepdim=keepdim, dtype=torch.float64)
    top = largest(x, dim)
    bits = min(MANTISSA - 2, MANTISSA - bits_of(x.numel() // top.numel()))
    return on_grid(x, bits, top).sum(dim, keepdim=keepdim, dtype=torch.float64)
