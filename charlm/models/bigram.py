"""The bigram: the next character depends on the present one alone.

After the model that Andrej Karpathy builds first in "Let's build GPT". Its closed forms are those of its table
(`charlm.models.table`), and its gradient needs no sum over positions.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from charlm.models.base import LanguageModel
from charlm.models.predictor import Floats, Index
from charlm.models.table import BigramTable, loss_and_gradient
from charlm.text.corpus import Split


class BigramLanguageModel(LanguageModel):
    """A table of logits: row the present character, column the next one."""

    def __init__(self, vocabulary_size: int, block_size: int, rng: np.random.Generator) -> None:
        super().__init__(vocabulary_size, block_size)
        weight = torch.from_numpy(BigramTable.initial(vocabulary_size, block_size, rng).table)  # (V, V)
        self.token_embedding_table = nn.Embedding(vocabulary_size, vocabulary_size, _weight=weight)

    def logits(self, index: Tensor) -> Tensor:
        """Logits (B, T, V) of the character after each of `index` (B, T)."""
        return self.token_embedding_table(index)  # type: ignore[no-any-return]

    @torch.no_grad()
    def loss_and_gradients(self, contexts: Tensor, targets: Tensor, seed: int = 0) -> tuple[Tensor, list[Tensor]]:  # noqa: ARG002 it drops nothing
        """The loss of `contexts` and `targets`, both (B, T), and its gradient by the table, from the counts of pairs.

        The gradient of a row is (how often it occurs × its softmax - its counts) / (B × T). Of a large table only the
        rows that occur are computed.
        """
        table, size = self.token_embedding_table.weight, self.vocabulary_size
        if self.exact:
            loss, exact_gradient = loss_and_gradient(table.numpy(), contexts.numpy(), targets.numpy())
            return torch.tensor(loss, dtype=table.dtype), [torch.from_numpy(exact_gradient)]
        rows, index, count = slice(None), contexts, size
        if contexts.numel() < size:
            rows, index = torch.unique(contexts, return_inverse=True)  # (R,), (B, T)
            count = len(rows)
        pairs = torch.bincount((index * size + targets).flatten(), minlength=count * size).view(count, size)  # (R, V)
        log_probabilities = torch.log_softmax(table[rows], dim=-1)  # (R, V)
        gradient = torch.zeros_like(table)
        gradient[rows] = (pairs.sum(dim=1, keepdim=True) * log_probabilities.exp() - pairs) / contexts.numel()
        return -(pairs * log_probabilities).sum() / contexts.numel(), [gradient]

    def table(self) -> BigramTable:
        """The table as a checkpoint keeps it, in float32: a model scores the same here and when it is loaded."""
        return BigramTable(
            self.token_embedding_table.weight.detach().cpu().float().numpy().astype(np.float64), self.block_size
        )

    def estimated_loss(self, split: Split, batch_size: int, eval_iters: int) -> float:  # noqa: ARG002 it needs neither
        """The exact loss, which costs no more than an estimate."""
        return self.loss_over(split)

    def loss_over(self, split: Split) -> float:
        """See `BigramTable`."""
        return self.table().loss_over(split)

    def loss_by_context(self, split: Split) -> Floats:
        """See `BigramTable`."""
        return self.table().loss_by_context(split)

    def position_losses(self, split: Split) -> Floats:
        """See `BigramTable`."""
        return self.table().position_losses(split)

    def next_char_probabilities(self, index: Index, temperature: float = 1.0) -> Floats:
        """See `BigramTable`."""
        return self.table().next_char_probabilities(index, temperature)

    def continuation(self, index: Index, n: int, temperature: float, rng: np.random.Generator) -> Iterator[Index]:
        """See `BigramTable`."""
        return self.table().continuation(index, n, temperature, rng)
