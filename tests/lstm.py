"""A model of one's own, as the tests add it to a project: plain PyTorch layers, and a cache of their state."""

import numpy as np
from torch import Tensor, nn

from charlm.models.base import LanguageModel

State = tuple[Tensor, Tensor]


class LSTM(LanguageModel):
    """One layer of `n_hidden` LSTM units behind an embedding of `n_embd` numbers, and a norm before the head."""

    def __init__(
        self, vocabulary_size: int, block_size: int, rng: np.random.Generator, *, n_embd: int, n_hidden: int
    ) -> None:
        super().__init__(vocabulary_size, block_size)
        self.embedding = nn.Embedding(vocabulary_size, n_embd)
        self.lstm = nn.LSTM(n_embd, n_hidden, batch_first=True)
        self.norm = nn.LayerNorm(n_hidden)
        self.head = nn.Linear(n_hidden, vocabulary_size)
        self.draw_weights(rng, zeros=["head"])

    def continued(self, index: Tensor, cache: State | None = None) -> tuple[Tensor, State]:
        """Logits (B, T, V) of `index` (B, T) from the states `cache`, zero if None; and the states after it."""
        hidden, cache = self.lstm(self.embedding(index), cache)  # (B, T, H)
        return self.head(self.norm(hidden)), cache  # (B, T, V)
