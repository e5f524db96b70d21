"""Tokens: split, counted, kept in files and read in windows, held against the notebook's slices and loops."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm.corpus import (
    SplitTooShortError,
    TextTooShortError,
    load_tokens,
    pair_counts,
    require_block,
    sample_batch,
    save_tokens,
    split,
)

FRACTIONS = st.floats(0, 1, exclude_min=True, exclude_max=True)
SEEDS = st.integers(0, 2**64 - 1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Split


@pytest.mark.parametrize("fraction", [0.8, 0.9, 0.29, 0.5, 1 / 3, 0.02, 0.98])
def test_split_is_the_notebooks(fraction: float) -> None:
    data = np.arange(100, dtype=np.uint8)
    n = int(fraction * len(data))  # 28 for 0.29: the product is 28.999999999999996
    train, test = split(data, fraction)
    assert (train.tolist(), test.tolist()) == (data[:n].tolist(), data[n:].tolist())


@given(st.integers(2, 300), FRACTIONS)
def test_parts_make_up_the_whole_and_none_is_without_a_pair(length: int, fraction: float) -> None:
    tokens = np.arange(length, dtype=np.uint16)
    at = int(fraction * length)
    if min(at, length - at) < 2:
        with pytest.raises(TextTooShortError):
            split(tokens, fraction)
    else:
        assert np.array_equal(np.concatenate(split(tokens, fraction)), tokens)


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        ([], "The text holds 0 of two distinct characters that a model needs"),
        ([3, 3, 3, 3, 3, 3], "The text holds 1 of two distinct characters that a model needs"),
        ([0, 1, 2], "The train part of the text has 1 characters, a pair needs two"),
        ([0, 1], "The train part of the text has 1 characters, a pair needs two"),
        ([0, 1, 2, 3, 0], "The test part of the text has 1 characters, a pair needs two"),
    ],
)
def test_a_text_without_two_parts_is_refused(tokens: list[int], problem: str) -> None:
    with pytest.raises(TextTooShortError) as err:
        split(np.array(tokens, dtype=np.uint8), 0.5 if len(tokens) < 4 else 0.8)
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


@given(st.lists(st.integers(0, 4), max_size=60), st.sampled_from([np.uint8, np.uint16, np.uint32]))
def test_pair_counts_are_those_of_a_loop(tokens: list[int], dtype: type) -> None:
    expected = [[0] * 5 for _ in range(5)]
    for first, second in pairwise(tokens):
        expected[first][second] += 1
    assert pair_counts(np.array(tokens, dtype=dtype), 5).tolist() == expected


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
    save_tokens(tmp_path / "train.npy", written)
    tokens = load_tokens(tmp_path / "train.npy")
    assert (tokens.dtype, tokens.tolist()) == (written.dtype, written.tolist())
    assert isinstance(tokens.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


# Windows


@given(st.data(), SEEDS)
def test_every_window_is_a_slice_and_its_targets_are_one_further(data: st.DataObject, seed: int) -> None:
    length = data.draw(st.integers(2, 300))
    block_size = data.draw(st.integers(1, length - 1))
    batch_size = data.draw(st.integers(1, 5))
    tokens = np.arange(1000, 1000 + length, dtype=np.uint16)  # each is its own position
    contexts, targets = sample_batch(tokens, batch_size, block_size, generator(seed))
    assert contexts.shape == targets.shape == (batch_size, block_size)
    assert contexts.dtype == targets.dtype == torch.int64
    assert torch.equal(contexts, contexts[:, :1] + torch.arange(block_size))
    assert torch.equal(targets, contexts + 1)
    assert contexts.min() >= 1000
    assert targets.max() < 1000 + length


def test_the_first_and_the_last_window_are_drawn_like_all_others() -> None:
    contexts, _ = sample_batch(np.arange(6, dtype=np.uint8), 4000, 2, generator(0))
    starts = torch.bincount(contexts[:, 0])
    assert len(starts) == 4
    assert ((starts - 1000).abs() < 100).all()  # 3.7 standard deviations


@pytest.mark.parametrize(("batch_size", "block_size"), [(4, 8), (1, 1), (64, 3)])
def test_batches_are_the_notebooks(batch_size: int, block_size: int) -> None:
    tokens = np.random.default_rng(0).integers(0, 80, 500).astype(np.uint8)
    data = torch.from_numpy(tokens.astype(np.int64))
    mine, notebooks = generator(5), generator(5)
    for _ in range(3):
        ix = torch.randint(len(data) - block_size, (batch_size,), generator=notebooks)
        x = torch.stack([data[i : i + block_size] for i in ix])
        y = torch.stack([data[i + 1 : i + block_size + 1] for i in ix])
        contexts, targets = sample_batch(tokens, batch_size, block_size, mine)
        assert torch.equal(contexts, x)
        assert torch.equal(targets, y)


def test_successive_batches_are_one_stream_of_starts() -> None:
    tokens, source = np.arange(200, dtype=np.uint8), generator(7)
    starts = [sample_batch(tokens, 6, 8, source)[0][:, 0] for _ in range(5)]
    assert torch.equal(torch.cat(starts), torch.randint(200 - 8, (5 * 6,), generator=generator(7)))


def test_the_seed_decides_the_batch() -> None:
    tokens = np.arange(200, dtype=np.uint8)
    batches = [sample_batch(tokens, 4, 8, generator(seed))[0] for seed in (1, 1, 2)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
