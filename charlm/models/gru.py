"""A recurrent network of gated units: a state that every character changes decides the next one.

After Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014), in PyTorch's form.
"""

import numpy as np
from torch import Tensor, nn

from charlm.models.base import LanguageModel


class GRU(LanguageModel):
    """One layer of `n_hidden` gated recurrent units; their state is zero at the beginning of a window."""

    def __init__(
        self,
        vocabulary_size: int,
        block_size: int,
        rng: np.random.Generator,
        *,
        n_embd: int,
        n_hidden: int,
        dropout: float,
    ) -> None:
        super().__init__(vocabulary_size, block_size)
        self.embedding = nn.Embedding(vocabulary_size, n_embd)
        self.gru = nn.GRU(n_embd, n_hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(n_hidden, vocabulary_size)
        self.draw_weights(rng, zeros=["head"])

    def hidden_matrices(self) -> list[Tensor]:
        """Those of the gates, (3 H, C) and (3 H, H)."""
        return [parameter for parameter in self.gru.parameters() if parameter.ndim == 2]

    def continued(self, index: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) of `index` (B, T) from the state `cache` (1, B, H), zero if None; and the state after it."""
        x = self.dropout(self.embedding(index))  # (B, T, C)
        states, last = self.gru(x, cache)  # (B, T, H), (1, B, H)
        return self.head(self.dropout(states)), last  # (B, T, V)
