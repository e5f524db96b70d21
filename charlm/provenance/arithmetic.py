"""Whether this machine and these packages compute as train.precision exact needs, found out in seconds.

The promise rests on kernels that round correctly and on sums that are exact. Here the kernels are compared with
Python's own arithmetic, and a short GPT is trained whose digest is committed.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.config import TrainParams
from charlm.models.gpt import GPT
from charlm.random import generator
from charlm.text.corpus import Split
from charlm.training.loop import train
from charlm.training.resume import State

Array = NDArray[Any]

ITERATIONS = 30
_VOCABULARY = 40
_SETTINGS = TrainParams(
    seed=1337,
    block_size=64,
    batch_size=8,
    gradient_accumulation_steps=2,
    max_iters=ITERATIONS,
    optimizer="muon",
    learning_rate=0.003,
    muon_learning_rate=0.02,
    beta2=0.99,
    weight_decay=0.1,
    warmup_iters=5,
    schedule="cosine",
    grad_clip=1.0,
    eval_interval=10,
    eval_iters=2,
    device="cpu",
    precision="exact",
)


def numbers(count: int, dtype: type[np.floating[Any]] = np.float64) -> Array:
    """`count` positive floats with any bits, among them subnormal and huge ones, and the edges of each kind."""
    kind = np.finfo(dtype)
    edges = np.array([0, kind.smallest_subnormal, kind.tiny, kind.max, 1, 1 - kind.epsneg, 1 + kind.eps], dtype)
    integer = {8: np.uint64, 4: np.uint32}[edges.itemsize]
    bits = np.random.default_rng(0).integers(0, np.array(np.inf, dtype).view(integer), count, dtype=integer)
    return np.concatenate([bits.view(dtype), edges])


def wrong_kernels(count: int = 100_000) -> list[str]:
    """The kernels that differ from Python's arithmetic, which IEEE 754 defines, on some of `count` numbers."""
    return [name for dtype in (np.float64, np.float32) for name in _wrong_kernels(numbers(count, dtype))]


def _wrong_kernels(x: Array) -> Iterator[str]:
    """Those that differ on `x`. Python computes in float64; rounded to float32, that is the nearest float32."""
    y = np.random.default_rng(1).permutation(x)
    y = np.where(y == 0, np.ones_like(y), y)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    pairs = list(zip(x.tolist(), y.tolist(), strict=True))
    rules: dict[str, Callable[[float, float], float]] = {
        "add": lambda p, q: p + q,
        "sub": lambda p, q: p - q,
        "mul": lambda p, q: p * q,
        "div": lambda p, q: p / q,
        "reciprocal": lambda _, q: 1 / q,
        "sqrt": lambda p, _: math.sqrt(p),
    }
    with np.errstate(all="ignore"):
        found = {
            "torch.add": a + b,
            "torch.sub": a - b,
            "torch.mul": a * b,
            "torch.div": a / b,
            "torch.reciprocal": b.reciprocal(),
            "numpy.add": x + y,
            "numpy.mul": x * y,
            "numpy.div": x / y,
            "numpy.sqrt": np.sqrt(x),
        }
        for name, numbers in found.items():
            expected = np.array([rules[name.partition(".")[2]](p, q) for p, q in pairs]).astype(x.dtype)
            if not np.array_equal(np.asarray(numbers), expected):
                yield f"{name} in {x.dtype}"


def gpt_digest() -> str:
    """SHA-256 of the curve, the weights in float64 and the optimizer of a GPT, on a text drawn at random."""
    draws = np.random.default_rng(0).integers(_VOCABULARY, size=(3000, 2)).min(axis=1).astype(np.uint8)
    splits = [Split(name, tokens, _VOCABULARY) for name, tokens in (("train", draws[:2000]), ("test", draws[2000:]))]
    rng = generator(_SETTINGS.seed, "weights")
    model = GPT.initial(
        _VOCABULARY, _SETTINGS.block_size, rng, "exact", n_layer=2, n_head=2, n_embd=64, n_window=3, dropout=0.1
    )
    found = hashlib.sha256()

    def save(state: State) -> None:  # before the last step, at which weights are rounded to float32
        for tensor in state.tensors.values():
            found.update(tensor.numpy().tobytes())

    points = list(train(model, splits, _SETTINGS, generator(_SETTINGS.seed, "batches"), save=save))
    found.update(repr(points).encode())
    return found.hexdigest()
