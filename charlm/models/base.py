"""The interface of all models: a `Predictor` that can learn, with default implementations that use only `logits`.

A model overrides `loss_and_gradients`, `estimated_loss` and the methods of a Predictor where it knows better; a test
compares each such closed form with the way here. B windows of T characters, V characters in the vocabulary.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the name that PyTorch's own documentation gives it

from charlm.models.predictor import Floats, Index, cumulative, draw, require_shapes, softmax
from charlm.text.corpus import Split


class LanguageModel(nn.Module):
    """A model of the next character, given at most `block_size` characters before it."""

    def __init__(self, vocabulary_size: int, block_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.block_size = block_size

    @classmethod
    def initial(cls, vocabulary_size: int, block_size: int, rng: np.random.Generator, **settings: Any) -> Self:
        """The model before its first step, its weights drawn from `rng`; `settings` are its section of params.yaml."""
        return cls(vocabulary_size, block_size, rng, **settings)  # type: ignore[call-arg]  # every model takes these

    def forward(self, index: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of the character after each of `index` (B, T); with `targets` (B, T) also the loss.

        The loss is the mean cross-entropy over all B × T positions, in nats per character.
        """
        logits = self.logits(index)  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B * T, V) against (B * T,)

    def logits(self, index: Tensor) -> Tensor:
        """Logits (B, T, V) of the character after each of `index` (B, T): what makes a model."""
        raise NotImplementedError

    def loss_and_gradients(self, contexts: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The loss of `contexts` and `targets`, both (B, T), and its gradient by each parameter, in their order."""
        _, loss = self(contexts, targets)
        gradients = torch.autograd.grad(loss, list(self.parameters()), allow_unused=True, materialize_grads=True)
        return loss.detach(), list(gradients)

    @torch.no_grad()
    def estimated_loss(self, split: Split, batch_size: int, eval_iters: int) -> float:
        """The mean loss over `eval_iters` batches of windows, evenly spaced over `split`, in nats per character."""
        windows = self._tensor(split.even_windows(eval_iters * batch_size, self.block_size))  # (N, T + 1)
        batches = torch.split(windows, batch_size)
        losses = [self(batch[:, :-1], batch[:, 1:])[1] for batch in batches]
        return float(torch.stack(losses).double().mean())

    @torch.no_grad()
    def loss_over(self, split: Split) -> float:
        """Mean cross-entropy over every position of `split` but the first, in the context that `blocks` gives it."""
        total = 0.0
        for windows, fresh in split.blocks(self.block_size):  # (B, T + 1), (B, T)
            tokens = self._tensor(windows)
            logits = self.logits(tokens[:, :-1]).flatten(0, 1)  # (B * T, V)
            losses = F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")  # (B * T,)
            total += float(losses.cpu().double()[torch.from_numpy(fresh.flatten())].sum())
        return total / (len(split) - 1)

    @torch.no_grad()
    def next_char_probabilities(self, index: Index, temperature: float = 1.0) -> Floats:
        """Probability of each character after the last block of each sequence of `index` (B, T): (B, V)."""
        logits = self.logits(self._tensor(index[:, -self.block_size :]))[:, -1]  # (B, V)
        return softmax(logits.double().cpu().numpy(), temperature)

    def generate(self, index: Index, n: int, temperature: float, rng: np.random.Generator) -> Index:
        """Each sequence of `index` (B, T) and `n` characters after it: (B, T + n); see `Predictor`."""
        for uniform in rng.random((n, len(index))):  # (B,)
            probabilities = self.next_char_probabilities(index, temperature)
            drawn = draw(cumulative(probabilities), uniform)
            index = np.concatenate([index, drawn[:, None]], axis=1)
        return index

    def load_weights(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the `weights` of a checkpoint; ValueError names the first that is missing, unknown or misshapen."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        require_shapes({name: array.shape for name, array in weights.items()}, shapes)
        self.float().load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})

    def _tensor(self, index: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(index).to(next(self.parameters()).device)
