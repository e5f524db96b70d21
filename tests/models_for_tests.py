"""Small models and splits that several tests use."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from charlm.config import TrainParams, load_params
from charlm.models.base import LanguageModel
from charlm.models.bigram import BigramLanguageModel
from charlm.models.table import BigramTable
from charlm.random import generator
from charlm.text.corpus import Split

V = 7
TOKENS = np.random.default_rng(0).choice(V, 500, p=[0.4, 0.25, 0.15, 0.1, 0.05, 0.04, 0.01]).astype(np.uint8)
TRAIN, TEST = Split("train", TOKENS[:400], V), Split("test", TOKENS[400:], V)
SHIPPED = load_params(Path(__file__).parents[1] / "params.yaml").train
SETTINGS = SHIPPED.model_copy(
    update={"seed": 1, "max_iters": 50, "learning_rate": 0.01, "eval_interval": 10, "precision": "float64"}
)


class Mean(LanguageModel):
    """A model of the whole context: the logits of a position are the mean of the embeddings up to it, projected."""

    def __init__(self, vocabulary_size: int, block_size: int, rng: np.random.Generator) -> None:
        super().__init__(vocabulary_size, block_size)
        draws = (torch.from_numpy(rng.standard_normal((vocabulary_size, 4))) for _ in range(2))
        self.embedding, self.head = (nn.Parameter(draw) for draw in draws)

    def logits(self, index: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        embedded = self.embedding[index]  # (B, T, 4)
        counts = torch.arange(1, index.shape[1] + 1)[:, None]
        return embedded.cumsum(dim=1) / counts @ self.head.T


def settings(**changes: Any) -> TrainParams:
    """SETTINGS with `changes`."""
    return TrainParams.model_validate(SETTINGS.model_dump() | changes)


def bigram(size: int = V, seed: int = 1) -> BigramLanguageModel:
    """A bigram as it is initialised, in float64."""
    return BigramLanguageModel(size, 8, generator(seed, "weights"))


def table(size: int = V, seed: int = 1) -> BigramTable:
    """The same as a table."""
    return BigramTable.initial(size, 8, generator(seed, "weights"))
