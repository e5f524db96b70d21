"""The neural probabilistic language model: the last few characters decide the next one, through one hidden layer.

After Bengio, Ducharme, Vincent and Jauvin, "A neural probabilistic language model" (2003), without their direct
connections from the embeddings to the output: y = b + U tanh(d + H x).
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from charlm.models.base import LanguageModel


class MLP(LanguageModel):
    """Embeddings of the last `n_context` characters, side by side, and one hidden layer of tanh."""

    def __init__(
        self,
        vocabulary_size: int,
        block_size: int,
        rng: np.random.Generator,
        *,
        n_context: int,
        n_embd: int,
        n_hidden: int,
    ) -> None:
        super().__init__(vocabulary_size, block_size)
        self.n_context = n_context
        self.embedding = nn.Embedding(vocabulary_size, n_embd)
        self.hidden = nn.Linear(n_embd * n_context, n_hidden)
        self.head = nn.Linear(n_hidden, vocabulary_size)
        self.draw_weights(rng, zeros=["head"])

    def hidden_matrices(self) -> list[Tensor]:
        """The one of the hidden layer."""
        return [self.hidden.weight]

    def logits(self, index: Tensor) -> Tensor:
        """Logits (B, T, V) of the character after each of `index` (B, T); before the first one are zeros."""
        length = index.shape[1]
        x = F.pad(self.embedding(index), (0, 0, self.n_context - 1, 0))  # (B, n - 1 + T, C)
        seen = [x[:, start : start + length] for start in range(self.n_context)]
        x = torch.stack(seen, dim=-1).flatten(2)  # (B, T, C, n) -> (B, T, C * n)
        return self.head(self.hidden(x).tanh())  # type: ignore[no-any-return]  # (B, T, V)
