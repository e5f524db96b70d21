"""A model of one's own, as the tests add it to a project: one class that overrides nothing."""

import numpy as np
import torch
from torch import Tensor, nn

from charlm.models.base import LanguageModel


class Unigram(LanguageModel):
    """The smallest model there is: one vector of logits, whatever comes before."""

    def __init__(self, vocabulary_size: int, block_size: int, rng: np.random.Generator) -> None:
        super().__init__(vocabulary_size, block_size)
        self.vector = nn.Parameter(torch.from_numpy(rng.standard_normal(vocabulary_size)))  # (V,)

    def logits(self, index: Tensor) -> Tensor:
        """The vector, at every position."""
        return self.vector.expand(*index.shape, -1)  # (B, T, V)
