"""Models and training loops of plain PyTorch, none of them charlm's, for the tests of exact arithmetic."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from charlm.exact import exact

V, T, C = 11, 16, 24


class Block(nn.Module):
    """nanoGPT's: attention and a feed-forward network, each behind a LayerNorm and dropped from."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(C), nn.LayerNorm(C, bias=False)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.expand, self.contract = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(2, (2, -1)).transpose(1, 2) for y in self.qkv(self.first(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1)
        x = x + F.dropout(self.out(y.transpose(1, 2).flatten(2)), 0.1)
        return x + F.dropout(self.contract(F.gelu(self.expand(self.second(x)))), 0.1)


class NanoGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(V, C), nn.Embedding(T, C)
        self.blocks, self.norm, self.head = (
            nn.Sequential(Block(), Block()),
            nn.LayerNorm(C),
            nn.Linear(C, V, bias=False),
        )
        self.head.weight = self.tokens.weight

    def forward(self, index: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(index) + self.positions(torch.arange(index.shape[1])))))


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.tokens, self.layer = nn.Embedding(V, C), kind(C, C, num_layers=2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(C, V)

    def forward(self, index: Tensor) -> Tensor:
        return self.head(self.layer(self.tokens(index))[0])


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(V, C), nn.Linear(C, V)
        self.layers = nn.ModuleList(nn.Conv1d(C, C, 3, dilation=2**depth) for depth in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm1d(C) for _ in range(2))

    def forward(self, index: Tensor) -> Tensor:
        x = self.tokens(index).mT  # (B, C, T)
        for depth, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = x + F.silu(norm(layer(F.pad(x, (2 ** (depth + 1), 0)))))
        return self.head(x.mT)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Embedding(V, C), nn.Linear(C, 2 * C), nn.Tanh(), nn.RMSNorm(2 * C), nn.Linear(2 * C, V))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "nanoGPT": NanoGPT,
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "Conv1d": Convolutions,
    "MLP": mlp,
}
OPTIMIZERS: list[Callable[[nn.Module], list[torch.optim.Optimizer]]] = [
    lambda model: [torch.optim.AdamW(model.parameters(), lr=0.01)],
    lambda model: [torch.optim.AdamW(model.parameters(), lr=0.01, foreach=True)],
    lambda model: [torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)],
    lambda model: [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)],
    lambda model: [
        torch.optim.Muon([p for p in model.parameters() if p.ndim == 2]),
        torch.optim.AdamW([p for p in model.parameters() if p.ndim != 2], lr=0.01),
    ],
]


def train(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int) -> None:
    for _ in range(steps):
        index = torch.randint(V, (8, T + 1)).cummax(1).values
        loss = F.cross_entropy(model(index[:, :-1]).flatten(0, 1), index[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()


def digest(name: str, steps: int, arithmetic: Callable[[], AbstractContextManager[object]] = exact) -> str:
    """SHA-256 of the weights that each optimizer leaves."""
    found = hashlib.sha256()
    for made in OPTIMIZERS:
        with torch.random.fork_rng(), arithmetic():
            torch.manual_seed(1)
            model = MODELS[name]()
            train(model, made(model), steps)
        for tensor in model.state_dict().values():
            found.update(tensor.numpy().tobytes())
    return found.hexdigest()
