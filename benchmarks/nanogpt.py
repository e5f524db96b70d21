"""The baseline of a GPT: nanoGPT's recipe for a laptop's CPU, written with PyTorch's own layers and optimizer.

The sizes and settings are those that nanoGPT's README gives for training on characters without a graphics card:
https://github.com/karpathy/nanoGPT. It is a GPT-2: learned positions, LayerNorm, GELU, a head that shares its weights
with the embedding, and AdamW on a cosine schedule.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from charlm.models.base import LanguageModel
from charlm.text.corpus import Split

BLOCK_SIZE, BATCH_SIZE, ITERATIONS = 64, 12, 2000
LAYERS, HEADS, WIDTH = 4, 4, 128
RATE, LAST_RATE, WARMUP = 1e-3, 1e-4, 100
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.99), 0.1, 1.0


class NanoGPT(LanguageModel):
    """GPT-2 in small; only its `logits` are its own, so it is measured as charlm's models are."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__(vocabulary_size, BLOCK_SIZE)
        self.tokens = nn.Embedding(vocabulary_size, WIDTH)
        self.positions = nn.Embedding(BLOCK_SIZE, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, vocabulary_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * LAYERS) if "out" in name else 1))

    def logits(self, index: Tensor) -> Tensor:
        """Logits (B, T, V) of the character after each of `index` (B, T)."""
        x = self.tokens(index) + self.positions(torch.arange(index.shape[1]))  # (B, T, C)
        return self.head(self.norm(self.blocks(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then a feed-forward network, each behind a LayerNorm and added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attention_out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.expand = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.out = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, T, C) after this block."""
        heads = self.qkv(self.norms[0](x)).unflatten(2, (3, HEADS, -1))  # (B, T, 3, H, D)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D)
        x = x + self.attention_out(found.transpose(1, 2).flatten(2))
        return x + self.out(F.gelu(self.expand(self.norms[1](x))))  # type: ignore[no-any-return]


def train(model: NanoGPT, split: Split, iterations: int, interval: int) -> Iterator[int]:
    """Train `model` in place; yields the step every `interval` iterations."""
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=BETAS)
    data = torch.from_numpy(split.tokens.astype(np.int64))
    for step in range(1, iterations + 1):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, iterations)
        starts = torch.randint(len(data) - BLOCK_SIZE, (BATCH_SIZE,))
        windows = torch.stack([data[start : start + BLOCK_SIZE + 1] for start in starts])  # (B, T + 1)
        _, loss = model(windows[:, :-1], windows[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if step % interval == 0:
            yield step


def _rate(step: int, iterations: int) -> float:
    """It rises to RATE, then falls along half a cosine to LAST_RATE."""
    if step <= WARMUP:
        return RATE * step / WARMUP
    progress = (step - WARMUP) / max(1, iterations - WARMUP)
    return LAST_RATE + (RATE - LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2
