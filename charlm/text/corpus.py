"""A text as tokens: cut into a train and a test split, counted, and read in windows.

Files are NumPy's own `.npy`; neither the vocabulary nor the model is known here. No text is too long: tokens are
written and counted block by block, and of a file longer than a block only what is asked for is read. Random windows
are those of the notebook and of nanoGPT's `get_batch`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CharlmError
from charlm.files import BLOCK, atomic_write

Tokens = NDArray[np.unsignedinteger[Any]]
Windows = NDArray[np.int64]

_READ = 2**16  # characters of random windows that are read at once
_LOGITS = 2**21  # logits that a model computes at once, at least those of one window


def split_sizes(length: int, distinct: int, train_fraction: float) -> tuple[int, int]:
    """How many of the `length` characters of a text train, the first int(train_fraction * length), and how many test.

    Raises CharlmError when the text has fewer than two `distinct` characters, or a split less than one pair.
    """
    fix = "Choose another text (data.source) or another data.train_fraction."
    if distinct < 2:
        raise CharlmError(f"The text has {distinct} distinct characters.", "A model needs two.", fix)
    train = int(train_fraction * length)
    for name, size in (("train", train), ("test", length - train)):
        if size < 2:
            raise CharlmError(f"The {name} split of the text has {size} characters.", "A pair needs two.", fix)
    return train, length - train


class Split:
    """A split of a text: its tokens, an array or a memory map of shape (N,), and the size V of their vocabulary."""

    def __init__(self, name: str, tokens: Tokens, vocabulary_size: int) -> None:
        self.name = name
        self.tokens = tokens
        self.vocabulary_size = vocabulary_size

    @classmethod
    def load(cls, path: Path, vocabulary_size: int) -> Self:
        """The tokens in `path`, named after it; a file of more than a block stays on disk as a read-only memory map."""
        tokens = np.load(path, mmap_mode="r")
        return cls(path.stem, tokens if len(tokens) > BLOCK else np.array(tokens), vocabulary_size)

    def __len__(self) -> int:
        """The number of characters, N."""
        return len(self.tokens)

    def require_block(self, block_size: int) -> None:
        """Raise CharlmError when there is no window of `block_size` characters and the one after them."""
        if len(self) <= block_size:
            raise CharlmError(
                f"The {self.name} split of the text has {len(self)} characters.",
                f"A block of train.block_size={block_size} needs at least {block_size + 1}.",
                "Choose a longer text (data.source), a smaller train.block_size or another data.train_fraction.",
            )

    @cached_property
    def pairs(self) -> NDArray[np.int64]:
        """How often each character follows each, shape (V, V): row the character, column the one after it.

        They sum to N - 1. For a model whose context is one character they are all that its loss depends on.
        """
        return _count_pairs(self.overlapping_blocks(), self.vocabulary_size)

    def frequent_pairs(self, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The F <= `most` most frequent tokens, sorted, and how often each pair of them occurs: (F,), (F, F)."""
        if self.vocabulary_size <= most:
            return np.arange(self.vocabulary_size), self.pairs
        counts = sum(np.bincount(block[:-1], minlength=self.vocabulary_size) for block in self.overlapping_blocks())
        frequent = np.sort(np.argsort(-np.asarray(counts), kind="stable")[:most])
        index = np.full(self.vocabulary_size, most)  # all other characters are one
        index[frequent] = np.arange(most)
        return frequent, _count_pairs((index[block] for block in self.overlapping_blocks()), most + 1)[:-1, :-1]

    def overlapping_blocks(self) -> Iterator[Windows]:
        """All tokens, a block at a time, each with the first token of the next: arrays of shape (n,)."""
        for start in range(0, len(self) - 1, BLOCK):
            yield self._read([start], min(BLOCK + 1, len(self) - start))[0]

    def random_windows(self, batch_size: int, block_size: int, rng: np.random.Generator) -> Iterator[Windows]:
        """Batches of windows without end, each of shape (B, T + 1).

        Every start from 0 to N - T - 1 is equally likely; of the text only the windows drawn are read.
        """
        count = max(1, _READ // (batch_size * (block_size + 1)))  # batches that are drawn and read at once
        while True:
            starts = rng.integers(len(self) - block_size, size=count * batch_size)
            yield from self._read(starts, block_size + 1).reshape(count, batch_size, block_size + 1)

    def even_windows(self, count: int, block_size: int) -> Windows:
        """`count` windows evenly spaced over the split, from its start to its end: (count, T + 1)."""
        starts = np.linspace(0, len(self) - block_size - 1, count).astype(np.int64)
        return self._read(starts, block_size + 1)

    def blocks(self, block_size: int) -> Iterator[tuple[Windows, NDArray[np.bool_]]]:
        """Windows that have each position but the first as a target, with a mask of where it is one for the first time.

        Windows of block_size start half a block apart, so that a target has at least half a block before it, but at the
        beginning of the split. Yields batches of shapes (B, T + 1) and (B, T).
        """
        size = min(block_size, len(self) - 1)
        last, stride = len(self) - 1 - size, max(1, size // 2)
        step, windows = max(1, _LOGITS // (size * self.vocabulary_size)), 1 + -(-last // stride)
        for at in range(0, windows, step):
            numbers = np.arange(at, min(at + step, windows))
            starts = np.minimum(numbers * stride, last)
            ends = np.where(
                numbers > 0, (numbers - 1) * stride + size, 0
            )  # the first position that is a target only now
            yield self._read(starts, size + 1), starts[:, None] + np.arange(size) >= ends[:, None]

    def _read(self, starts: "Iterable[int] | Windows", length: int) -> Windows:
        """The windows of `length` at `starts`, one a row.

        Those of a memory map are read from its file: a page that is touched in a map counts as the process's own from
        then on, in the end all of the file, and costs several times what reading a window does.
        """
        if not isinstance(self.tokens, np.memmap):
            return self.tokens[np.asarray(starts)[:, None] + np.arange(length)].astype(np.int64)
        size, first = self.tokens.itemsize, self.tokens.offset
        with Path(str(self.tokens.filename)).open("rb", buffering=0) as file:
            number = file.fileno()
            found = [os.pread(number, length * size, first + int(start) * size) for start in starts]
        return np.frombuffer(b"".join(found), self.tokens.dtype).reshape(-1, length).astype(np.int64)


def _count_pairs(blocks: Iterable[Windows], size: int) -> NDArray[np.int64]:
    """How often each of `size` tokens follows each in overlapping `blocks`, shape (size, size)."""
    counts = np.zeros(size**2, dtype=np.int64)
    for block in blocks:
        pairs = block[:-1] * size + block[1:]
        if len(counts) <= BLOCK:
            counts += np.bincount(pairs, minlength=len(counts))
        else:
            np.add.at(counts, pairs, 1)
    return counts.reshape(size, size)


def load_splits(folder: Path, vocabulary_size: int) -> tuple[Split, Split]:
    """The train and the test split that `prepare` has written to `folder`."""
    return Split.load(folder / "train.npy", vocabulary_size), Split.load(folder / "test.npy", vocabulary_size)


def save_tokens(sizes: Mapping[Path, int], dtype: np.dtype[Any], blocks: Iterable[Tokens]) -> None:
    """Write `blocks`, one after the other, as arrays of `sizes` to these paths, each complete or not at all.

    The blocks have as many tokens of `dtype` as the arrays together; the bytes are those that np.save writes.
    """
    ends, done = np.cumsum(list(sizes.values())), 0
    with ExitStack() as stack:
        files = [stack.enter_context(_array_file(path, size, dtype)) for path, size in sizes.items()]
        for block in blocks:
            pieces = np.split(block, np.clip(ends - done, 0, len(block)))
            for file, piece in zip(files, pieces[:-1], strict=True):
                file.write(piece.data)
            done += len(block)
        assert done == ends[-1], f"{done} tokens for files of {ends[-1]}"


@contextmanager
def _array_file(path: Path, size: int, dtype: np.dtype[Any]) -> Iterator[BinaryIO]:
    """A file that is to be `path`, with the header of an array of shape (size,), for its elements to be written."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size,)}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield file
