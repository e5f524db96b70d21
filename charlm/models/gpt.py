"""A GPT: blocks of causal self-attention and of a feed-forward network, each added to what came before.

After Radford et al., "Language models are unsupervised multitask learners" (2019), with what has since proved faster to
train: rotary positions ("RoFormer", Su et al. 2021), RMSNorm (Zhang and Sennrich 2019), squared ReLU ("Primer", So et
al. 2021), blocks that add nothing at first ("ReZero", Bachlechner et al. 2020), and an input of several characters.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from charlm.models.base import LanguageModel

Memory = tuple[Tensor, Tensor]
"""The keys and values that a block has computed in this window, both (B, H, S, D)."""
Cache = tuple[Tensor, list[Memory | None]]
"""The characters of this window so far (B, S), and each block's memory of them."""


class GPT(LanguageModel):
    """`n_layer` blocks of `n_head` heads over vectors of `n_embd` numbers, each from the last `n_window` characters."""

    threaded = True

    def __init__(
        self,
        vocabulary_size: int,
        block_size: int,
        rng: np.random.Generator,
        *,
        n_layer: int,
        n_head: int,
        n_embd: int,
        n_window: int,
        dropout: float,
    ) -> None:
        super().__init__(vocabulary_size, block_size)
        self.head_size = n_embd // n_head
        self.embeddings = nn.ModuleList(nn.Embedding(vocabulary_size, n_embd) for _ in range(n_window))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(n_embd, self.head_size, dropout) for _ in range(n_layer))
        self.head = nn.Linear(n_embd, vocabulary_size, bias=False)
        self.draw_weights(rng, zeros=["output", "contract", "head"])

    def hidden_matrices(self) -> list[Tensor]:
        """Those of the blocks, which have no other parameters."""
        return list(self.blocks.parameters())

    def continued(self, index: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Logits (B, T, V) of `index` (B, T), the characters after those in `cache`; and the cache with them."""
        before, memories = cache or (index[:, :0], [None] * len(self.blocks))
        start, end = before.shape[1], before.shape[1] + index.shape[1]
        index = torch.cat([before, index], dim=1)  # (B, S + T)
        recent = index[:, max(0, start + 1 - len(self.embeddings)) :]
        x = self.dropout(norm(self.embed(recent)[:, start - end :]))  # (B, T, C)
        rotation = rotations(start, end, self.head_size, x)
        memories = list(memories)
        for number, block in enumerate(self.blocks):
            x, memories[number] = block(x, rotation, memories[number])
        return self.head(norm(x)), (index, memories)  # (B, T, V)

    def embed(self, index: Tensor) -> Tensor:
        """The sum (B, T, C) of an embedding of each of `index` (B, T) and of the n_window - 1 characters before it."""
        vectors = [table(index) for table in self.embeddings]
        x = vectors[0]
        for back, vector in enumerate(vectors[1:], start=1):
            x = x + F.pad(vector, (0, 0, back, 0))[:, : index.shape[1]]
        return x  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then a feed-forward network; the output of each is added to `x`."""

    def __init__(self, n_embd: int, head_size: int, dropout: float) -> None:
        super().__init__()
        self.head_size = head_size  # D
        self.queries_keys_values = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.output = nn.Linear(n_embd, n_embd, bias=False)
        self.expand = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.contract = nn.Linear(4 * n_embd, n_embd, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """`x` (B, T, C) after this block, and the memory for the characters that follow."""
        found, memory = self.attend(norm(x), rotation, memory)
        x = x + self.dropout(self.output(found))
        hidden = F.relu(self.expand(norm(x))).square()  # (B, T, 4 * C)
        return x + self.dropout(self.contract(hidden)), memory

    def attend(self, x: Tensor, rotation: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """What each position of `x` (B, T, C) reads from those up to it: (B, T, C); and the longer memory."""
        qkv = self.queries_keys_values(x)
        qkv = qkv.view(*x.shape[:2], 3, -1, self.head_size)  # (B, T, 3, H, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        q, k = rotated(q, rotation), rotated(k, rotation)
        if memory is not None:
            k, v = torch.cat([memory[0], k], dim=2), torch.cat([memory[1], v], dim=2)  # (B, H, S + T, D)
        # With a memory T is 1: that position sees all others.
        found = F.scaled_dot_product_attention(q, k, v, is_causal=memory is None)  # (B, H, T, D)
        return found.transpose(1, 2).flatten(2), (k, v)


def norm(x: Tensor) -> Tensor:
    """`x` (..., C), each vector divided by the root of its mean square."""
    return F.rms_norm(x, x.shape[-1:])


def rotations(start: int, end: int, size: int, like: Tensor) -> Tensor:
    """Cosines and sines (2, T, D / 2) of the angles of positions from `start` to `end`, in the numbers of `like`."""
    frequencies = 10_000 ** -(torch.arange(0, size, 2).to(like) / size)  # (D / 2,)
    angles = torch.outer(torch.arange(start, end).to(like), frequencies)  # (T, D / 2)
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """`x` (B, H, T, D), each pair of numbers turned by its position's angle: products depend on distances alone."""
    cos, sin = rotation  # (T, D / 2) each
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
