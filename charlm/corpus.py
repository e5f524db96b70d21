"""A text as tokens: cut into a train and a test part, counted, and read in random windows.

It knows files only as NumPy's own `.npy`, opened as memory maps, and neither the vocabulary nor the model.
The windows are the notebook's and nanoGPT's `get_batch`, gathered at once instead of stacked one by one.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CharlmError
from charlm.files import whole

if TYPE_CHECKING:
    import torch

Tokens = NDArray[np.unsignedinteger[Any]]


class TextTooShortError(CharlmError):
    """A text cannot be split into parts that a model can learn from and be measured on."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}.\nChoose another text (data.source) or another data.train_fraction.")


class SplitTooShortError(CharlmError):
    """A part of the text holds no window of block_size characters and the one after them."""

    def __init__(self, name: str, length: int, block_size: int) -> None:
        super().__init__(
            f"The {name} part of the text has {length} characters; "
            f"a block of train.block_size={block_size} needs at least {block_size + 1}.\n"
            "Choose a longer text (data.source), a smaller train.block_size or another data.train_fraction."
        )


def split(tokens: Tokens, train_fraction: float) -> tuple[Tokens, Tokens]:
    """The first int(train_fraction * N) of `tokens`, shape (N,), to train on, and the rest to test on.

    Raises TextTooShortError when the text has fewer than two symbols, or a part less than one pair of characters.
    """
    if len(tokens) == 0 or tokens.min() == tokens.max():
        raise TextTooShortError(
            f"The text holds {len(np.unique(tokens))} of two distinct characters that a model needs"
        )
    at = int(train_fraction * len(tokens))
    train, test = tokens[:at], tokens[at:]
    for name, part in (("train", train), ("test", test)):
        if len(part) < 2:
            raise TextTooShortError(f"The {name} part of the text has {len(part)} characters, a pair needs two")
    return train, test


def require_block(name: str, tokens: Tokens, block_size: int) -> None:
    """Raise SplitTooShortError when `tokens` hold no window of `block_size` and the character after it."""
    if len(tokens) <= block_size:
        raise SplitTooShortError(name, len(tokens), block_size)


def save_tokens(path: Path, tokens: Tokens) -> None:
    """Write `tokens` to `path`, whole or not at all."""
    with whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, tokens)


def load_tokens(path: Path) -> Tokens:
    """The tokens in `path` as a read-only memory map."""
    return np.asarray(np.load(path, mmap_mode="r"))  # an np.memmap object makes each look-up slower


def pair_counts(tokens: Tokens, vocabulary_size: int) -> NDArray[np.int64]:
    """How often each character follows each, shape (V, V): row the character, column the one after it.

    They sum to N - 1. For a model whose context is one character they are all that its loss depends on.
    """
    pairs = tokens[:-1].astype(np.int64) * vocabulary_size + tokens[1:]  # (N - 1,)
    return np.bincount(pairs, minlength=vocabulary_size**2).reshape(vocabulary_size, vocabulary_size)


def sample_batch(
    tokens: Tokens, batch_size: int, block_size: int, generator: "torch.Generator"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Random windows of `tokens`, shape (N,): contexts and targets, both int64 of shape (B, T).

    Every start from 0 to N - block_size - 1 is equally likely; a target is the character after its context's.
    """
    import torch

    starts = torch.randint(len(tokens) - block_size, (batch_size, 1), generator=generator).numpy()  # (B, 1)
    windows = torch.from_numpy(tokens[starts + np.arange(block_size + 1)].astype(np.int64))  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]
