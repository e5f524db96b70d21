"""The interface of all models: a `Predictor` that can learn, with default implementations that use only `logits`.

A model defines `logits` or `continued`, and overrides the other methods where it knows better; a test compares each
with the way here. B windows of T characters, V characters in the vocabulary.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the name that PyTorch's own documentation gives it

from charlm.exact import exact
from charlm.exact.elementary import total
from charlm.models.predictor import Floats, Index, Precision, cumulative, draw, require_shapes, softmax
from charlm.text.corpus import Split

DTYPES: dict[Precision, torch.dtype] = {"exact": torch.float32, "float64": torch.float64, "float32": torch.float32}


class LanguageModel(nn.Module):
    """A model of the next character, given at most `block_size` characters before it.

    It is in eval mode, without dropout, except in `loss_and_gradients`.
    """

    threaded = False
    """Whether several threads train it faster than one: those that share small matrices mostly wait for each other."""

    def __init__(self, vocabulary_size: int, block_size: int) -> None:
        super().__init__()
        self.exact = False
        """Whether it computes in `charlm.exact`."""
        self.vocabulary_size = vocabulary_size
        self.block_size = block_size

    @classmethod
    def initial(
        cls,
        vocabulary_size: int,
        block_size: int,
        rng: np.random.Generator,
        precision: Precision | None = None,
        **settings: Any,
    ) -> Self:
        """The model before its first step, its weights drawn from `rng`; `settings` are its section of params.yaml.

        It computes in `precision`, by default in the numbers that its weights are drawn in.
        """
        # PyTorch's layers draw their weights from its global generator, before `rng` replaces them.
        with torch.random.fork_rng([]):
            model = cls(vocabulary_size, block_size, rng, **settings)  # type: ignore[call-arg]  # every model takes these
        return model.eval() if precision is None else model.eval().compute_in(precision)

    def compute_in(self, precision: Precision) -> Self:
        """Compute in this `precision` from now on."""
        self.exact = precision == "exact"
        return self.to(DTYPES[precision])

    def arithmetic(self) -> AbstractContextManager[object]:
        """The block in which it computes."""
        return exact() if self.exact else nullcontext()

    def draw_weights(self, rng: np.random.Generator, zeros: Collection[str] = ()) -> None:
        """Set all parameters, in their order: biases and the layers named `zeros` to 0, the others to draws of `rng`.

        The gains of norms stay at 1. Embeddings are drawn from N(0, 1), matrices from N(0, 1 / columns): a layer's
        output is as large as its input.
        """
        embeddings = {module.weight for module in self.modules() if isinstance(module, nn.Embedding)}
        for name, parameter in self.named_parameters():
            if "bias" in name.split(".")[-1] or name.split(".")[-2] in zeros:
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                std = 1.0 if parameter in embeddings else parameter.shape[1] ** -0.5
                parameter.data.copy_(torch.from_numpy(rng.normal(0.0, std, parameter.shape)))

    def hidden_matrices(self) -> list[Tensor]:
        """The matrices between the embeddings and the head, which Muon is made for."""
        return []

    def forward(self, index: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of the character after each of `index` (B, T); with `targets` (B, T) also the loss.

        The loss is the mean cross-entropy over all B × T positions, in nats per character.
        """
        logits = self.logits(index)  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B * T, V) against (B * T,)

    def logits(self, index: Tensor) -> Tensor:
        """Logits (B, T, V) of the character after each of `index` (B, T): what a model without a cache defines."""
        logits, _ = self.continued(index)
        return logits

    def continued(self, index: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """Logits (B, T, V) of `index` (B, T), the characters after those in `cache`; and the cache with them.

        Without a cache `index` starts the window; with one, T is 1. A model that can keep more than the characters
        defines this instead of `logits`.
        """
        index = index if cache is None else torch.cat([cache, index], dim=1)
        return self.logits(index), index

    def loss_and_gradients(self, contexts: Tensor, targets: Tensor, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
        """The loss of `contexts` and `targets`, both (B, T), and its gradient by each parameter, in their order.

        `seed` decides what dropout drops. PyTorch's global generator may draw it; its state is restored.
        """
        with torch.random.fork_rng([contexts.device] if contexts.is_cuda else []), self.arithmetic():
            torch.manual_seed(seed)
            self.train()
            _, loss = self(contexts, targets)
            self.eval()
            gradients = torch.autograd.grad(loss, list(self.parameters()), allow_unused=True, materialize_grads=True)
        return loss.detach(), list(gradients)

    @torch.no_grad()
    def estimated_loss(self, split: Split, batch_size: int, eval_iters: int) -> float:
        """The mean loss over `eval_iters` batches of windows, evenly spaced over `split`, in nats per character."""
        windows = self._tensor(split.even_windows(eval_iters * batch_size, self.block_size))  # (N, T + 1)
        batches = torch.split(windows, batch_size)
        with self.arithmetic():
            losses = [float(self(batch[:, :-1], batch[:, 1:])[1]) for batch in batches]
        return total(losses) / len(losses)

    def loss_over(self, split: Split) -> float:
        """Mean cross-entropy over every position of `split` but the first, in the context that `blocks` gives it."""
        return total([total(losses[fresh]) for losses, fresh in self._block_losses(split)]) / (len(split) - 1)

    def loss_by_context(self, split: Split) -> Floats:
        """Mean loss of `split` by how many characters of its window a prediction has seen: (block_size,)."""
        sums, windows = np.zeros(min(self.block_size, len(split) - 1)), 0
        for losses, _ in self._block_losses(split):
            sums, windows = sums + losses.sum(axis=0), windows + len(losses)
        return sums / windows

    def position_losses(self, split: Split) -> Floats:
        """The loss of each position of a short `split` but the first: (N - 1,)."""
        return np.concatenate([losses[fresh] for losses, fresh in self._block_losses(split)])

    @torch.no_grad()
    def _block_losses(self, split: Split) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
        """The losses of the windows of `Split.blocks`, with its masks: both (B, T)."""
        for windows, fresh in split.blocks(self.block_size):  # (B, T + 1), (B, T)
            tokens = self._tensor(windows)
            with self.arithmetic():
                logits = self.logits(tokens[:, :-1]).flatten(0, 1)  # (B * T, V)
                losses = F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")  # (B * T,)
            yield losses.cpu().double().numpy().reshape(fresh.shape), fresh

    @torch.no_grad()
    def next_char_probabilities(self, index: Index, temperature: float = 1.0) -> Floats:
        """Probability of each character after each sequence of `index` (B, T), in its window: (B, V)."""
        with self.arithmetic():
            logits = self.logits(self._tensor(index[:, self.window_start(index.shape[1]) :]))[:, -1]  # (B, V)
        return _probabilities(logits, temperature)

    def generate(self, index: Index, n: int, temperature: float, rng: np.random.Generator) -> Index:
        """Each sequence of `index` (B, T) and `n` characters after it: (B, T + n); see `Predictor`."""
        return np.concatenate([index, *self.continuation(index, n, temperature, rng)], axis=1)

    @torch.no_grad()
    def continuation(self, index: Index, n: int, temperature: float, rng: np.random.Generator) -> Iterator[Index]:
        """The `n` characters after each sequence of `index` (B, T), one by one (B, 1); see `Predictor`.

        A model with a cache reads each character of a window once.
        """
        text = np.pad(index, ((0, 0), (0, n)))  # (B, T + n)
        start, read, cache = 0, 0, None
        for end, uniform in enumerate(rng.random((n, len(index))), start=index.shape[1]):  # (B,)
            if start != self.window_start(end):
                start = read = self.window_start(end)
                cache = None
            with self.arithmetic():
                logits, cache = self.continued(self._tensor(text[:, read:end]), cache)
            text[:, end] = draw(cumulative(_probabilities(logits[:, -1], temperature)), uniform)
            read = end
            yield text[:, [end]]

    def window_start(self, length: int) -> int:
        """Where the window starts that predicts the character after the first `length`.

        A window grows to block_size characters, then the next starts half a block later: a cache stays valid in
        between, and every prediction beyond the first block sees at least half a block, as in `Split.blocks`.
        """
        stride = max(1, self.block_size // 2)
        return math.ceil(max(0, length - self.block_size) / stride) * stride

    def load_weights(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the `weights` of a checkpoint; ValueError names the first that is missing, unknown or misshapen."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        require_shapes({name: array.shape for name, array in weights.items()}, shapes)
        self.float().load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})

    def _tensor(self, index: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(index).to(next(self.parameters()).device)


def _probabilities(logits: Tensor, temperature: float) -> Floats:
    """Probabilities (B, V) of `logits` (B, V)."""
    return softmax(logits.double().cpu().numpy(), temperature)
