"""The character models: for now the bigram, whose next character depends on the present one alone.

After the model that Andrej Karpathy builds first in "Let's build GPT". It is not where a model is trained
(`training`), measured (`evaluation`) or stored (`checkpoint`).
"""

from bisect import bisect_right
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the name that PyTorch's own documentation gives it


class BigramLanguageModel(nn.Module):
    """A table of logits: row the present character, column the next one.

    The initial weights are drawn from N(0, 1) in float64, whatever `dtype` they are then kept in, so that
    a seed means the same model in each.
    """

    def __init__(
        self,
        vocabulary_size: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        size = (vocabulary_size, vocabulary_size)
        weight = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)  # (V, V)
        self.token_embedding_table = nn.Embedding(*size, _weight=weight)

    @property
    def table(self) -> Tensor:
        """The logits, shape (V, V)."""
        weight: Tensor = self.token_embedding_table.weight
        return weight

    def forward(self, index: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of the character after each of `index` (B, T); with `targets` (B, T) also the loss.

        The loss is the mean cross-entropy over all B x T positions, in nats per character.
        """
        logits = self.token_embedding_table(index)  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B * T, V) against (B * T,)

    @torch.no_grad()
    def next_char_probabilities(self, temperature: float = 1.0) -> Tensor:
        """Probability of each next character for each character, shape (V, V), in float64 on the CPU."""
        logits = self.table.detach().cpu().double()  # (V, V)
        # The largest is taken off first, or a tiny temperature would make it infinite.
        return torch.softmax((logits - logits.amax(dim=-1, keepdim=True)) / temperature, dim=-1)

    @torch.no_grad()
    def generate(
        self,
        index: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue each row of `index` (B, T) by `max_new_tokens` sampled characters: (B, T + max_new_tokens).

        Only the last character of the context matters to a bigram, so a step costs the same however long the text
        has grown. Characters are drawn by inverting the cumulative distribution in float64 on the CPU: one uniform
        number a character, all drawn beforehand, gives the same text on every machine.
        """
        cumulative = self.next_char_probabilities(temperature).cumsum(dim=-1)  # (V, V)
        cumulative[:, -1] = 1.0  # the sum may fall short by a rounding error
        uniform = torch.rand(max_new_tokens, len(index), dtype=torch.float64, generator=generator)  # (T, B)
        drawn = _walk(cumulative, index[:, -1].cpu(), uniform)
        return torch.cat([index, drawn.to(index.device)], dim=1)


def _walk(cumulative: Tensor, token: Tensor, uniform: Tensor) -> Tensor:
    """From each of `token` (B,) on, by numbers `uniform` (T, B), the next tokens, (B, T).

    A step for all sequences at once takes PyTorch 9 µs, one for a single sequence takes Python 0.2 µs.
    """
    if len(token) < 32:
        row = cache(lambda at: cumulative[at].tolist())  # of a large table few rows are met
        walks = [
            list(accumulate(numbers, lambda at, number: bisect_right(row(at), number), initial=start))
            for start, numbers in zip(token.tolist(), uniform.T.tolist(), strict=True)
        ]
        return torch.tensor(walks, dtype=torch.long)[:, 1:]
    steps = [
        token := torch.searchsorted(cumulative[token], numbers[:, None], right=True).squeeze(1) for numbers in uniform
    ]
    return torch.stack(steps, dim=1) if steps else token.new_empty(uniform.T.shape)


MODELS = {"bigram": BigramLanguageModel}
"""The models by their name in params.yaml."""
