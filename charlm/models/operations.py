"""The operations that models are written in, as PyTorch has them; `charlm.models.exact` has the same, exact.

A model names the operation and hands over its layer, so that it is written once for every precision.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the name that PyTorch's own documentation gives it

from charlm.models.predictor import Precision, softmax

DTYPES: dict[Precision, torch.dtype] = {"exact": torch.float64, "float64": torch.float64, "float32": torch.float32}


class Operations:
    """B windows of T characters, C numbers at a position. All differentiable but `probabilities`."""

    exact = False

    def seed(self, seed: int) -> None:
        """Let `seed` decide what dropout drops from now on."""
        torch.manual_seed(seed)

    def embedding(self, index: Tensor, layer: nn.Embedding) -> Tensor:
        """The rows (B, T, C) of the layer's table at `index` (B, T)."""
        vectors: Tensor = layer(index)
        return vectors

    def linear(self, x: Tensor, layer: nn.Linear) -> Tensor:
        """`x` (..., C) times the layer's matrix, and its bias: (..., C')."""
        y: Tensor = layer(x)
        return y

    def dropout(self, x: Tensor, layer: nn.Dropout) -> Tensor:
        """`x` with a random part of it set to 0 while training."""
        kept: Tensor = layer(x)
        return kept

    def norm(self, x: Tensor) -> Tensor:
        """`x` (..., C), each vector divided by the root of its mean square."""
        return F.rms_norm(x, x.shape[-1:])

    def tanh(self, x: Tensor) -> Tensor:
        """The hyperbolic tangent of each number."""
        return x.tanh()

    def relu_squared(self, x: Tensor) -> Tensor:
        """The square of each positive number, 0 for the others."""
        return F.relu(x).square()

    def attention(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
        """What queries `q` (B, H, T, D) read from `v` by its keys `k`, (B, H, S, D) each; `causal`: none from later."""
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    def rotations(self, start: int, end: int, size: int, like: Tensor) -> Tensor:
        """Cosines and sines (2, T, D / 2) of the angles of positions from `start` to `end`."""
        frequencies = 10_000 ** -(torch.arange(0, size, 2).to(like) / size)  # (D / 2,)
        angles = torch.outer(torch.arange(start, end).to(like), frequencies)  # (T, D / 2)
        return torch.stack([angles.cos(), angles.sin()])

    def gru(self, x: Tensor, state: Tensor | None, layer: nn.GRU) -> tuple[Tensor, Tensor]:
        """The states (B, T, H) of a layer of gated recurrent units, and the last of them (1, B, H)."""
        states, last = layer(x, state)
        return states, last

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy of each position, in nats: (N,), from logits (N, V) and targets (N,)."""
        return F.cross_entropy(logits, targets, reduction="none")

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean of `losses`."""
        return F.cross_entropy(logits, targets)

    def probabilities(self, logits: Tensor, temperature: float) -> NDArray[np.float64]:
        """Probabilities (B, V) of `logits` (B, V)."""
        return softmax(logits.double().cpu().numpy(), temperature)
