"""Elementary functions from correctly rounded operations alone: the same bits on every machine; no torch.

The last bit of what a library's exp, log or cos returns depends on the library and on the instructions of the CPU. IEEE
754 fixes that of `+ - * /`, so these functions use nothing else. Where the arguments are arrays, NumPy's and PyTorch's
serve alike. Angles are computed in `decimal`, Python's own arithmetic on whole numbers.
"""

import math
from decimal import Context, Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Numbers = TypeVar("Numbers", Floats, "Tensor")

MANTISSA = 53
"""Bits of a float64: whole numbers up to 2 ** 53 are all there, and so is a sum that stays below."""
_DOUBLINGS = 7
_EXP = [1 / math.factorial(power) for power in range(7, -1, -1)]
_LOWEST = -64.0
_LN2 = float(Decimal(2).ln())
_ATANH = [1 / (2 * power + 1) for power in range(9, -1, -1)]
_DECIMAL = Context(prec=50)


def exp(x: Numbers) -> Numbers:
    """The exponentials of numbers <= 0: (1 + t + ... + t^7 / 7!) ^ 128 with t = x / 128; at least that of -64, 1.6e-28.

    The relative error is 1e-14 down to -4, 1e-8 at -30.
    """
    t = x.clip(min=_LOWEST)
    t *= 0.5**_DOUBLINGS
    result = t * _EXP[0]
    for coefficient in _EXP[1:-1]:
        result += coefficient
        result *= t
    result += _EXP[-1]
    for _ in range(_DOUBLINGS):
        result *= result
    return result


def log(x: Floats) -> Floats:
    """The logarithms of positive numbers x = m 2^n, m close to 1: 2 artanh((m - 1) / (m + 1)) + n log 2."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < math.sqrt(0.5)
    mantissa = np.where(small, 2 * mantissa, mantissa)
    u = (mantissa - 1) / (mantissa + 1)
    square = u * u
    series = np.zeros_like(u)
    for coefficient in _ATANH:
        series = series * square + coefficient
    return np.asarray((exponent - small) * _LN2 + 2 * u * series)


def shift(bits: int, largest: float = 1.0) -> float:
    """C such that x + C - C is x rounded to a grid, for |x| <= `largest`, a power of two: multiples of its 2^-`bits`.

    On the grid x is a whole number of steps, at most 2^bits.
    """
    assert 0 < bits <= MANTISSA - 2, bits
    return math.ldexp(1.5 * largest, MANTISSA - 1 - bits)


def bits_of(count: int) -> int:
    """Bits that a sum of `count` terms adds to those of a term."""
    return (count - 1).bit_length()


def sum_on_grid(x: Floats) -> Floats:
    """The sum (1,) of numbers (N,), rounded to a grid for the largest of them."""
    return sum_of_fractions(x, math.ldexp(1.0, math.frexp(np.abs(x).max())[1]))


def sum_of_fractions(x: Numbers, largest: float = 1.0) -> Numbers:
    """The sums along the last dimension, which stays as 1, of numbers up to `largest`: exact, once on a grid."""
    grid = shift(min(MANTISSA - 2, MANTISSA - bits_of(x.shape[-1])), largest)
    x = x + grid
    x -= grid
    sums: Numbers = x.sum(-1)[..., None]
    return sums


def power(base: float, exponent: int) -> float:
    """`base` to a whole power, by squaring: Python's own `**` is the C library's."""
    result = 1.0
    while exponent:
        if exponent % 2:
            result *= base
        base, exponent = base * base, exponent // 2
    return result


def turn(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Cosine and sine of an `angle` from 0 to about 4, to 45 digits: the series of both."""
    terms, power = [Decimal(1)], 1
    while abs(terms[-1]) > Decimal("1e-49"):
        terms.append(_DECIMAL.divide(_DECIMAL.multiply(terms[-1], angle), Decimal(power)))
        power += 1
    signed = [-term if number % 4 in (2, 3) else term for number, term in enumerate(terms)]
    zero = Decimal(0)
    cosine, sine = zero, zero
    for number, term in enumerate(signed):
        if number % 2:
            sine = _DECIMAL.add(sine, term)
        else:
            cosine = _DECIMAL.add(cosine, term)
    return cosine, sine


def cosine(half_turns: float) -> float:
    """cos(pi * `half_turns`) for 0 to 1."""
    pi = Decimal("3.14159265358979323846264338327950288419716939937511")
    return float(turn(_DECIMAL.multiply(pi, Decimal(half_turns)))[0])


@cache
def rotations(length: int, size: int) -> Floats:
    """Cosines and sines (2, T, D / 2) of position × 10,000^(-2 i / D) for `length` T and `size` D.

    Each position's are those of the position before, turned by one position more: four products in 50 digits.
    """
    table = np.empty((2, length, size // 2))
    for column in range(size // 2):
        exponent = _DECIMAL.divide(Decimal(-2 * column), Decimal(size))
        angle = _DECIMAL.exp(_DECIMAL.multiply(Decimal(10_000).ln(_DECIMAL), exponent))
        (cos, sin), (a, b) = turn(angle), (Decimal(1), Decimal(0))
        for position in range(length):
            table[:, position, column] = float(a), float(b)
            a, b = (
                _DECIMAL.subtract(_DECIMAL.multiply(a, cos), _DECIMAL.multiply(b, sin)),
                _DECIMAL.add(_DECIMAL.multiply(a, sin), _DECIMAL.multiply(b, cos)),
            )
    return table


def total(x: Any) -> float:
    """The sum of an array's numbers, rounded once."""
    return math.fsum(np.asarray(x).ravel().tolist())
