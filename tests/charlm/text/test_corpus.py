"""Tokens: split, counted, kept in files and read in windows, held against the notebook's slices and loops."""

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm.text.corpus import (
    SplitTooShortError,
    TextTooShortError,
    batches,
    load_tokens,
    pair_counts,
    require_block,
    save_tokens,
    split,
)

FRACTIONS = st.floats(0, 1, exclude_min=True, exclude_max=True)
SEEDS = st.integers(0, 2**64 - 1)
DTYPES = st.sampled_from([np.dtype(kind) for kind in (np.uint8, np.uint16, np.uint32)])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Split


@pytest.mark.parametrize("fraction", [0.8, 0.9, 0.29, 0.5, 1 / 3, 0.02, 0.98])
def test_split_is_the_notebooks(fraction: float) -> None:
    data = list(range(100))
    n = int(fraction * len(data))  # 28 for 0.29: the product is 28.999999999999996
    assert split(len(data), len(data), fraction) == (len(data[:n]), len(data[n:]))


@given(st.integers(2, 300), FRACTIONS)
def test_parts_make_up_the_whole_and_none_is_without_a_pair(length: int, fraction: float) -> None:
    at = int(fraction * length)
    if min(at, length - at) < 2:
        with pytest.raises(TextTooShortError):
            split(length, 2, fraction)
    else:
        assert sum(split(length, 2, fraction)) == length


@pytest.mark.parametrize(
    ("length", "distinct", "problem"),
    [
        (0, 0, "The text holds 0 of two distinct characters that a model needs"),
        (6, 1, "The text holds 1 of two distinct characters that a model needs"),
        (3, 3, "The train part of the text has 1 characters, a pair needs two"),
        (2, 2, "The train part of the text has 1 characters, a pair needs two"),
        (5, 4, "The test part of the text has 1 characters, a pair needs two"),
    ],
)
def test_a_text_without_two_parts_is_refused(length: int, distinct: int, problem: str) -> None:
    with pytest.raises(TextTooShortError) as err:
        split(length, distinct, 0.5 if length < 4 else 0.8)
    assert str(err.value) == f"{problem}.\nChoose another text (data.source) or another data.train_fraction."


def test_a_block_needs_the_character_after_it() -> None:
    require_block("test", np.zeros(9, dtype=np.uint8), 8)
    with pytest.raises(SplitTooShortError) as err:
        require_block("test", np.zeros(8, dtype=np.uint8), 8)
    assert str(err.value) == (
        "The test part of the text has 8 characters; a block of train.block_size=8 needs at least 9.\n"
        "Choose a longer text (data.source), a smaller train.block_size or another data.train_fraction."
    )


# Counts


@given(st.lists(st.integers(0, 4), max_size=60), DTYPES, st.integers(1, 70))
def test_pair_counts_are_those_of_a_loop_wherever_blocks_end(
    tokens: list[int], dtype: "np.dtype[Any]", block: int
) -> None:
    expected = [[0] * 5 for _ in range(5)]
    for first, second in pairwise(tokens):
        expected[first][second] += 1
    assert pair_counts(np.array(tokens, dtype=dtype), 5, block).tolist() == expected


def test_pairs_of_a_large_vocabulary_are_told_apart() -> None:
    counts = pair_counts(np.array([255, 254, 255, 255], dtype=np.uint8), 256)
    assert {(int(a), int(b)): int(counts[a, b]) for a, b in np.argwhere(counts)} == {
        (254, 255): 1,
        (255, 254): 1,
        (255, 255): 1,
    }


# Files


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_tokens_come_back_as_a_read_only_memory_map(tmp_path: Path, dtype: type) -> None:
    written = np.array([3, 1, 2, 2], dtype=dtype)
    save_tokens({tmp_path / "train.npy": 4}, written.dtype, [written])
    tokens = load_tokens(tmp_path / "train.npy")
    assert (tokens.dtype, tokens.tolist()) == (written.dtype, written.tolist())
    assert isinstance(tokens.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


@given(st.lists(st.lists(st.integers(0, 255))), st.integers(0, 100), DTYPES)
def test_files_are_those_of_numpy_wherever_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[list[int]], percent: int, dtype: "np.dtype[Any]"
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    tokens = np.array([token for block in blocks for token in block], dtype=dtype)
    at = len(tokens) * percent // 100
    paths = [folder / "train.npy", folder / "test.npy"]
    save_tokens(dict(zip(paths, (at, len(tokens) - at), strict=True)), dtype, (np.array(b, dtype) for b in blocks))
    for path, part in zip(paths, (tokens[:at], tokens[at:]), strict=True):
        np.save(folder / "numpys.npy", part)
        assert path.read_bytes() == (folder / "numpys.npy").read_bytes()


def test_files_whose_blocks_do_not_all_come_leave_the_old_ones(tmp_path: Path) -> None:
    paths = [tmp_path / "train.npy", tmp_path / "test.npy"]
    for path in paths:
        path.write_bytes(b"old")

    def blocks() -> Iterator[Any]:
        yield np.zeros(3, dtype=np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_tokens(dict.fromkeys(paths, 2), np.dtype(np.uint8), blocks())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(paths, b"old")


@given(st.lists(st.integers(0, 4), min_size=4, max_size=60), DTYPES, SEEDS)
def test_a_memory_map_gives_the_counts_and_the_batches_of_its_array(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[int], dtype: "np.dtype[Any]", seed: int
) -> None:
    path = tmp_path_factory.mktemp("tokens") / "train.npy"
    array = np.array(tokens, dtype=dtype)
    np.save(path, array)
    mapped = load_tokens(path)
    for some, same in ((mapped, array), (mapped[2:], array[2:])):
        assert np.array_equal(pair_counts(some, 5, 7), pair_counts(same, 5))
    drawn, expected = (islice(batches(t, 3, 2, generator(seed)), 4) for t in (mapped, array))
    for (x, y), (a, b) in zip(drawn, expected, strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)


# Windows


@given(st.data(), SEEDS)
def test_every_window_is_a_slice_and_its_targets_are_one_further(data: st.DataObject, seed: int) -> None:
    length = data.draw(st.integers(2, 300))
    block_size = data.draw(st.integers(1, length - 1))
    batch_size = data.draw(st.integers(1, 5))
    tokens = np.arange(1000, 1000 + length, dtype=np.uint16)  # each is its own position
    contexts, targets = next(batches(tokens, batch_size, block_size, generator(seed)))
    assert contexts.shape == targets.shape == (batch_size, block_size)
    assert contexts.dtype == targets.dtype == torch.int64
    assert torch.equal(contexts, contexts[:, :1] + torch.arange(block_size))
    assert torch.equal(targets, contexts + 1)
    assert contexts.min() >= 1000
    assert targets.max() < 1000 + length


def test_the_first_and_the_last_window_are_drawn_like_all_others() -> None:
    contexts, _ = next(batches(np.arange(6, dtype=np.uint8), 4000, 2, generator(0)))
    starts = torch.bincount(contexts[:, 0])
    assert len(starts) == 4
    assert ((starts - 1000).abs() < 100).all()  # 3.7 standard deviations


@pytest.mark.parametrize(("batch_size", "block_size"), [(4, 8), (1, 1), (64, 3)])
def test_batches_are_the_notebooks(batch_size: int, block_size: int) -> None:
    tokens = np.random.default_rng(0).integers(0, 80, 500).astype(np.uint8)
    data = torch.from_numpy(tokens.astype(np.int64))
    notebooks = generator(5)
    for contexts, targets in islice(batches(tokens, batch_size, block_size, generator(5)), 3):
        ix = torch.randint(len(data) - block_size, (batch_size,), generator=notebooks)
        x = torch.stack([data[i : i + block_size] for i in ix])
        y = torch.stack([data[i + 1 : i + block_size + 1] for i in ix])
        assert torch.equal(contexts, x)
        assert torch.equal(targets, y)


def test_successive_batches_are_one_stream_of_starts() -> None:
    drawn = batches(np.arange(200, dtype=np.uint8), 6, 8, generator(7))
    starts = [contexts[:, 0] for contexts, _ in islice(drawn, 5)]
    assert torch.equal(torch.cat(starts), torch.randint(200 - 8, (5 * 6,), generator=generator(7)))


def test_the_seed_decides_the_batch() -> None:
    tokens = np.arange(200, dtype=np.uint8)
    first, again, other = (next(batches(tokens, 4, 8, generator(seed)))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
