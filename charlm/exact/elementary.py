"""Elementary functions of single IEEE operations: the same bits on every machine. No torch is imported.

The last bit of what a library's exp, log or cos returns depends on the library and on the instructions of the CPU. IEEE
754 fixes that of `+ - * /`, so these functions use nothing else, beside operations that round nothing. Arrays are
NumPy's or PyTorch's. The methods are textbook ones: reduction of the argument, then a series (Muller, "Elementary
Functions", 2016).
"""

import math
import sys
from collections.abc import Sequence
from decimal import Context, Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Numbers = TypeVar("Numbers", Floats, NDArray[np.float32], "Tensor")

MANTISSA = 53
"""Bits of a float64: whole numbers up to 2 ** 53 are all there, and so is a sum that stays below."""
_DECIMAL = Context(prec=50)
_PI = Decimal("3.14159265358979323846264338327950288419716939937511")
_LN2 = Decimal(2).ln(_DECIMAL)


def _library(x: object) -> Any:
    """The one whose functions take `x`."""
    return np if isinstance(x, np.ndarray) else sys.modules["torch"]


def _series(x: Numbers, coefficients: Sequence[float]) -> Numbers:
    """The polynomial of `x` with these coefficients, that of the highest power first."""
    result = x * coefficients[0]
    for coefficient in coefficients[1:-1]:
        result += coefficient
        result *= x
    result += coefficients[-1]
    return result


def _split(number: Decimal, bits: int, parts: int) -> list[float]:
    """`number` as a sum of floats of which all but the last have few bits, so that small whole multiples are exact."""
    found: list[float] = []
    for _ in range(parts - 1):
        _, exponent = math.frexp(float(number))
        step = Decimal(2) ** (exponent - bits)
        found.append(float(int(number / step) * step))
        number = _DECIMAL.subtract(number, Decimal(found[-1]))
    return [*found, float(number)]


class _Exp:
    """What exp needs for one width of floats: `bits` of the fraction, `terms` of the series, the `lowest` argument."""

    def __init__(self, bits: int, bias: int, terms: int, lowest: float, integer: str) -> None:
        self.bits, self.lowest, self.integer = bits, lowest, integer
        self.highest = (bias + 0.49) * float(_LN2)
        self.magic = math.ldexp(1.5, bits) + bias
        self.high, self.low = _split(_LN2, 11 if bits < 30 else 32, 2)
        self.coefficients = [1 / math.factorial(power) for power in range(terms, -1, -1)]


_EXP = {4: _Exp(23, 127, 7, -87.0, "int32"), 8: _Exp(52, 1023, 13, -708.0, "int64")}
_LOG2E = 1 / float(_LN2)


def exp(x: Numbers) -> Numbers:
    """The exponentials of numbers up to 88 (float32) or 709 (float64): 2^n times the series of what n ln 2 leaves.

    Arguments below -87 or -708 count as these; the relative error is about two units in the last place.
    """
    kind = _EXP[x.dtype.itemsize]
    x = x.clip(kind.lowest, kind.highest)
    n = x * _LOG2E
    n += kind.magic  # rounds to a whole number, whose last bits are then those of an exponent
    scale = n.view(getattr(_library(x), kind.integer)) << kind.bits
    n -= kind.magic
    x -= n * kind.high
    n *= kind.low
    x -= n
    result = _series(x, kind.coefficients)
    result *= scale.view(x.dtype)
    return result


_ATANH = [1 / (2 * power + 1) for power in range(10, -1, -1)]


def log(x: Numbers) -> Numbers:
    """The logarithms of positive float64 x = m 2^n, m close to 1: 2 artanh((m - 1) / (m + 1)) + n log 2."""
    of = _library(x)
    mantissa, exponent = of.frexp(x)
    small = mantissa < math.sqrt(0.5)
    mantissa = of.where(small, 2 * mantissa, mantissa)
    u = (mantissa - 1) / (mantissa + 1)
    square = u * u
    series = _series(square, _ATANH) * u * 2
    whole = of.asarray(of.where(small, exponent - 1, exponent), dtype=of.float64)
    result = whole * _EXP[8].low + series
    result += whole * _EXP[8].high
    if ((x > 0) & (x < math.inf)).all():
        return result  # type: ignore[no-any-return]
    edge = of.where(x == 0, -math.inf, of.where(x == math.inf, math.inf, math.nan))
    return of.where((x > 0) & (x < math.inf), result, edge)  # type: ignore[no-any-return]


_SINE, _COSINE = ([(-1) ** k / math.factorial(2 * k + odd) for k in range(8, -1, -1)] for odd in (1, 0))
_QUARTER = _split(_PI / 2, 30, 3)
_MAGIC = math.ldexp(1.5, 52)


def sine_and_cosine(x: Numbers) -> tuple[Numbers, Numbers]:
    """Sines and cosines of float64; the absolute error is below 1e-14 up to a million."""
    of = _library(x)
    n = x * (2 / float(_PI)) + _MAGIC
    n -= _MAGIC
    for part in _QUARTER:
        x = x - n * part
    square = x * x
    sine, cosine = x * _series(square, _SINE), _series(square, _COSINE)
    quarter = n - 4 * of.floor(n * 0.25)  # 0 to 3: how many quarter turns are left
    swapped, upside = (quarter == 1) | (quarter == 3), quarter >= 2
    sine, cosine = of.where(swapped, cosine, sine), of.where(swapped, sine, cosine)
    return of.where(upside, -sine, sine), of.where((quarter == 1) | (quarter == 2), -cosine, cosine)


_EXPM1 = [1 / math.factorial(power) for power in range(12, 0, -1)]


def expm1(x: Numbers) -> Numbers:
    """exp(x) - 1 of float64, near 0 by its series."""
    of = _library(x)
    near = x.clip(-0.25, 0.25)
    series = near * _series(near, _EXPM1)
    return of.where(abs(x) <= 0.25, series, bounded_exp(x) - 1)  # type: ignore[no-any-return]


def bounded_exp(x: Numbers) -> Numbers:
    """exp, 0 below its lowest argument and infinite above its highest."""
    of = _library(x)
    kind = _EXP[x.dtype.itemsize]
    result = of.where(x < kind.lowest, 0.0, exp(x))
    return of.where(x > kind.highest, math.inf, result)  # type: ignore[no-any-return]


_TANH = [62 / 2835, -17 / 315, 2 / 15, -1 / 3, 1]


def tanh(x: Numbers) -> Numbers:
    """(1 - e) / (1 + e) with e = exp(-2 |x|), and the sign of `x`; near 0 by its series, or in float64 by expm1."""
    of = _library(x)
    size = abs(x)
    if x.dtype.itemsize == 8:
        e = expm1(size * -2)
        return of.copysign(-e / (2 + e), x)  # type: ignore[no-any-return]
    e = exp(size * -2)
    near = size.clip(0, 0.3)
    size = of.where(size < 0.3, near * _series(near * near, _TANH), (1 - e) / (1 + e))
    return of.copysign(size, x)  # type: ignore[no-any-return]


_NODES = 32  # in a unit


@cache
def _erf_table() -> Floats:
    """Erf and its slope (2, N) at multiples of 1 / 32 from 0 to 6, by the series of erf in 50 digits."""
    table = np.empty((2, 6 * _NODES + 1))
    for node in range(table.shape[1]):
        x = Decimal(node) / _NODES
        square, power, series, k = _DECIMAL.multiply(x, x), x, x, 0
        while abs(power) > Decimal("1e-40"):
            k += 1
            power = _DECIMAL.divide(_DECIMAL.multiply(-power, square), Decimal(k))
            series = _DECIMAL.add(series, _DECIMAL.divide(power, Decimal(2 * k + 1)))
        factor = _DECIMAL.divide(Decimal(2), _PI.sqrt(_DECIMAL))
        table[:, node] = float(factor * series), float(factor * _DECIMAL.exp(-square))
    return table


def erf(x: Numbers) -> Numbers:
    """The error function of float64: five terms of the Taylor series at the nearest node; the error is below 1e-11."""
    of = _library(x)
    values, slopes = _erf_table() if of is np else of.from_numpy(_erf_table())
    size = abs(x).clip(0, 6)
    node = size * _NODES + _MAGIC
    node -= _MAGIC
    number = of.asarray(of.where(of.isnan(node), 0.0, node), dtype=of.int64)
    node = node * (1 / _NODES)
    h = size - node
    square = node * node
    # The derivatives of erf are its slope times Hermite polynomials.
    series = h * (1 / 30) * (3 - 12 * square + 4 * square * square)
    series += (1 / 6) * (3 * node - 2 * square * node)
    series *= h
    series += (1 / 3) * (2 * square - 1)
    series *= h
    series -= node
    series *= h
    series += 1
    return of.copysign(values[number] + slopes[number] * (h * series), x)  # type: ignore[no-any-return]


def shift(bits: int, largest: float = 1.0, mantissa: int = MANTISSA) -> float:
    """C such that x + C - C is x rounded to a grid, for |x| <= `largest`, a power of two: multiples of its 2^-`bits`.

    On the grid x is a whole number of steps, at most 2^bits.
    """
    assert 0 < bits <= mantissa - 2, bits
    return math.ldexp(1.5 * largest, mantissa - 1 - bits)


def bits_of(count: int) -> int:
    """Bits that a sum of `count` terms adds to those of a term."""
    return (count - 1).bit_length()


def sum_on_grid(x: Floats) -> Floats:
    """The sum (1,) of numbers (N,), rounded to a grid for the largest of them."""
    return sum_of_fractions(x, math.ldexp(1.0, math.frexp(np.abs(x).max())[1]))


def sum_of_fractions(x: Floats, largest: float = 1.0) -> Floats:
    """The sums along the last dimension, which stays as 1, of numbers up to `largest`: exact, once on a grid."""
    grid = shift(min(MANTISSA - 2, MANTISSA - bits_of(x.shape[-1])), largest)
    x = x + grid
    x -= grid
    sums: Floats = x.sum(-1)[..., None]
    return sums


def power(base: float, exponent: int) -> float:
    """`base` to a whole power, by squaring: Python's own `**` is the C library's."""
    result = 1.0
    while exponent:
        if exponent % 2:
            result *= base
        base, exponent = base * base, exponent // 2
    return result


def total(x: Any) -> float:
    """The sum of an array's numbers, rounded once."""
    return math.fsum(np.asarray(x).ravel().tolist())
