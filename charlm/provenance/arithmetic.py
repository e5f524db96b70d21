"""Whether this machine and these packages compute as train.precision exact needs, found out in seconds.

The promise rests on kernels that round correctly and on sums that are exact. Here the kernels are compared with
Python's own arithmetic, and a short GPT is trained whose digest is committed.
"""

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.config import TrainParams
from charlm.models.gpt import GPT
from charlm.random import generator
from charlm.text.corpus import Split
from charlm.training.loop import train
from charlm.training.resume import State

Array = NDArray[np.float64]

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


def numbers(count: int) -> Array:
    """`count` positive floats with any bits, among them subnormal and huge ones, and the edges of each kind."""
    bits = np.random.default_rng(0).integers(0, 0x7FF0_0000_0000_0000, count, dtype=np.uint64)
    edges = [0.0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1.0, 1 - 2**-53, 1 + 2**-52]
    return np.concatenate([bits.view(np.float64), edges])


def wrong_kernels(count: int = 100_000) -> list[str]:
    """The kernels that differ from Python's arithmetic, which IEEE 754 defines, on some of `count` numbers."""
    x = numbers(count)
    y = np.random.default_rng(1).permutation(x)
    y = np.where(y == 0, 1.0, y)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    pairs = list(zip(x.tolist(), y.tolist(), strict=True))
    sums, products = [p + q for p, q in pairs], [p * q for p, q in pairs]
    quotients, roots = [p / q for p, q in pairs], [math.sqrt(p) for p in x.tolist()]
    with np.errstate(all="ignore"):
        kernels = {
            "torch.add": ((a + b).tolist(), sums),
            "torch.sub": ((a - b).tolist(), [p - q for p, q in pairs]),
            "torch.mul": ((a * b).tolist(), products),
            "torch.div": ((a / b).tolist(), quotients),
            "torch.rsqrt": (b.rsqrt().tolist(), [1 / math.sqrt(q) for _, q in pairs]),
            "numpy.add": ((x + y).tolist(), sums),
            "numpy.multiply": ((x * y).tolist(), products),
            "numpy.divide": ((x / y).tolist(), quotients),
            "numpy.sqrt": (np.sqrt(x).tolist(), roots),
        }
    return [name for name, (found, expected) in kernels.items() if found != expected]


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
