"""A text as tokens: cut into a train and a test part, counted, and read in random windows.

It knows files only as NumPy's own `.npy`, opened as memory maps, and neither the vocabulary nor the model. No text is
too long: tokens are written and counted block by block, and of a memory map only what is asked for is read.
The windows are the notebook's and nanoGPT's `get_batch`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CharlmError
from charlm.files import atomic_write

if TYPE_CHECKING:
    import torch

Tokens = NDArray[np.unsignedinteger[Any]]

BLOCK = 2**16


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


def split(length: int, distinct: int, train_fraction: float) -> tuple[int, int]:
    """How many of the `length` characters of a text train, the first int(train_fraction * length), and how many test.

    Raises TextTooShortError when fewer than two of them are `distinct`, or a part has less than one pair.
    """
    if distinct < 2:
        raise TextTooShortError(f"The text holds {distinct} of two distinct characters that a model needs")
    train = int(train_fraction * length)
    for name, part in (("train", train), ("test", length - train)):
        if part < 2:
            raise TextTooShortError(f"The {name} part of the text has {part} characters, a pair needs two")
    return train, length - train


def require_block(name: str, tokens: Tokens, block_size: int) -> None:
    """Raise SplitTooShortError when `tokens` hold no window of `block_size` and the character after it."""
    if len(tokens) <= block_size:
        raise SplitTooShortError(name, len(tokens), block_size)


def save_tokens(sizes: Mapping[Path, int], dtype: np.dtype[Any], blocks: Iterable[Tokens]) -> None:
    """Write `blocks`, one after the other, as arrays of `sizes` to these paths, all of them whole or none at all.

    The blocks hold as many tokens of `dtype` as the arrays together; the bytes are those that np.save writes.
    """
    ends, done = np.cumsum(list(sizes.values())), 0
    with ExitStack() as stack:
        files = [stack.enter_context(_array_file(path, size, dtype)) for path, size in sizes.items()]
        for block in blocks:
            parts = np.split(block, np.clip(ends - done, 0, len(block)))
            for file, part in zip(files, parts[:-1], strict=True):
                file.write(part.data)
            done += len(block)
        assert done == ends[-1], f"{done} tokens for files of {ends[-1]}"


@contextmanager
def _array_file(path: Path, size: int, dtype: np.dtype[Any]) -> Iterator[BinaryIO]:
    """A file that is to be `path`, with the header of an array of shape (size,), for its elements to be written."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size,)}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield file


def load_tokens(path: Path) -> Tokens:
    """The tokens in `path` as a read-only memory map."""
    return np.asarray(np.load(path, mmap_mode="r"))  # an np.memmap object makes each look-up slower


@contextmanager
def _pieces(tokens: Tokens) -> Iterator[Callable[[int, int], Tokens]]:
    """A function that gives `tokens[start : start + length]`; those of a memory map it reads from the mapped file.

    A page that is touched in a map counts as the process's own from then on, in the end all of the file, and bringing
    it in costs several times what reading a window does.
    """
    mapped, size = tokens.base, tokens.itemsize
    if not isinstance(mapped, np.memmap) or len(mapped) != len(tokens):
        yield lambda start, length: tokens[start : start + length]
        return
    with Path(str(mapped.filename)).open("rb", buffering=0) as file:
        number, first = file.fileno(), mapped.offset
        yield lambda start, length: np.frombuffer(os.pread(number, length * size, first + start * size), tokens.dtype)


def pair_counts(tokens: Tokens, vocabulary_size: int, block: int = BLOCK) -> NDArray[np.int64]:
    """How often each character follows each, shape (V, V): row the character, column the one after it.

    They sum to N - 1. For a model whose context is one character they are all that its loss depends on. One pass over
    the tokens, shape (N,), `block` of them at a time.
    """
    counts = np.zeros(vocabulary_size**2, dtype=np.int64)
    with _pieces(tokens) as piece:
        for start in range(0, len(tokens) - 1, block):
            part = piece(start, block + 1)  # with the first of the next block, for the pair across
            pairs = np.multiply(part[:-1], vocabulary_size, dtype=np.intp)
            np.add.at(counts, pairs + part[1:], 1)
    return counts.reshape(vocabulary_size, vocabulary_size)


def batches(
    tokens: Tokens, batch_size: int, block_size: int, generator: "torch.Generator"
) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """Random windows of `tokens`, shape (N,), without end: contexts and targets, both int64 of shape (B, T).

    Every start from 0 to N - block_size - 1 is equally likely; a target is the character after its context's. Of a
    memory map only the windows drawn are read, so a batch costs the same however long the text is.
    """
    import torch

    with _pieces(tokens) as piece:
        while True:
            starts = torch.randint(len(tokens) - block_size, (batch_size,), generator=generator).tolist()
            drawn = np.concatenate([piece(start, block_size + 1) for start in starts])  # (B * (T + 1),)
            windows = torch.from_numpy(drawn.astype(np.int64)).view(batch_size, block_size + 1)  # (B, T + 1)
            yield windows[:, :-1], windows[:, 1:]
