"""Random draws from NumPy's bits: PyTorch's own depend on the CPU's instructions and on the build.

Each draw takes one integer from PyTorch's generator, so `torch.manual_seed` decides it, as ever.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from charlm.exact.elementary import log, sine_and_cosine


def _bits(generator: torch.Generator | None) -> np.random.Generator:
    seed = torch.randint(2**62, (), generator=generator)
    return np.random.Generator(np.random.PCG64(int(seed)))


def uniform(shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Numbers from 0 to 1, without 1, in float64."""
    return torch.from_numpy(np.asarray(_bits(generator).random(shape)))


def chosen(shape: Sequence[int], p: float, generator: torch.Generator | None = None) -> Tensor:
    """True with probability `p`, to 2^-32."""
    size = math.prod(shape)
    drawn = _bits(generator).bit_generator.random_raw(-(-size // 2)).view("<u4")[:size].reshape(shape)
    return torch.from_numpy(np.asarray(drawn < round(p * 2**32)))


def normal(shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Draws from N(0, 1) in float64; after Box and Muller (1958)."""
    rng = _bits(generator)
    u, v = (np.asarray(rng.random(shape)) for _ in range(2))
    return torch.from_numpy(np.asarray(np.sqrt(-2 * log(1 - u)) * sine_and_cosine(v * (2 * math.pi))[1]))
