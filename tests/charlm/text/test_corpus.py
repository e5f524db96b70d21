"""Tokens: split, counted, kept in files and read in windows, held against the notebook's slices and loops."""

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import CharlmError
from charlm.text import corpus
from charlm.text.corpus import Split, save_tokens, split_sizes

FRACTIONS = st.floats(0, 1, exclude_min=True, exclude_max=True)
SEEDS = st.integers(0, 2**64 - 1)
DTYPES = st.sampled_from([np.dtype(kind) for kind in (np.uint8, np.uint16, np.uint32)])


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def positions(length: int) -> Split:
    """A split in which each token is its own position."""
    return Split("train", np.arange(length, dtype=np.uint16), length)


# Split


@pytest.mark.parametrize("fraction", [0.8, 0.9, 0.29, 0.5, 1 / 3, 0.02, 0.98])
def test_sizes_are_the_notebooks(fraction: float) -> None:
    data = list(range(100))
    n = int(fraction * len(data))  # 28 for 0.29: the product is 28.999999999999996
    assert split_sizes(len(data), len(data), fraction) == (len(data[:n]), len(data[n:]))


@given(st.integers(2, 300), FRACTIONS)
def test_splits_make_up_the_text_and_none_is_without_a_pair(length: int, fraction: float) -> None:
    at = int(fraction * length)
    if min(at, length - at) < 2:
        with pytest.raises(CharlmError):
            split_sizes(length, 2, fraction)
    else:
        assert sum(split_sizes(length, 2, fraction)) == length


@pytest.mark.parametrize(
    ("length", "distinct", "problem"),
    [
        (0, 0, "The text has 0 distinct characters.\nA model needs two."),
        (6, 1, "The text has 1 distinct characters.\nA model needs two."),
        (3, 3, "The train split of the text has 1 characters.\nA pair needs two."),
        (2, 2, "The train split of the text has 1 characters.\nA pair needs two."),
        (5, 4, "The test split of the text has 1 characters.\nA pair needs two."),
    ],
)
def test_a_text_without_two_splits_is_refused(length: int, distinct: int, problem: str) -> None:
    with pytest.raises(CharlmError) as err:
        split_sizes(length, distinct, 0.5 if length < 4 else 0.8)
    assert str(err.value) == f"{problem}\nChoose another text (data.source) or another data.train_fraction."


def test_a_block_needs_the_character_after_it() -> None:
    positions(9).require_block(8)
    with pytest.raises(CharlmError) as err:
        positions(8).require_block(8)
    assert str(err.value) == (
        "The train split of the text has 8 characters.\n"
        "A block of train.block_size=8 needs at least 9.\n"
        "Choose a longer text (data.source), a smaller train.block_size or another data.train_fraction."
    )


# Counts


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), DTYPES, st.integers(1, 70), st.integers(1, 5))
def test_pairs_are_those_of_a_loop_wherever_blocks_end(
    tokens: list[int], dtype: "np.dtype[Any]", block: int, most: int
) -> None:
    expected = [[0] * 5 for _ in range(5)]
    for first, second in pairwise(tokens):
        expected[first][second] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "BLOCK", block)
        split = Split("train", np.array(tokens, dtype=dtype), 5)
        assert split.pairs.tolist() == expected
        frequent, pairs = split.frequent_pairs(most)
    assert pairs.tolist() == [[expected[a][b] for b in frequent] for a in frequent]
    assert frequent.tolist() == sorted(frequent)
    counts = [sum(row) for row in expected]
    assert sorted(counts, reverse=True)[:most] == sorted((counts[token] for token in frequent), reverse=True)


def test_pairs_of_a_large_vocabulary_are_told_apart() -> None:
    counts = Split("train", np.array([255, 254, 255, 255], dtype=np.uint8), 256).pairs
    assert {(int(a), int(b)): int(counts[a, b]) for a, b in np.argwhere(counts)} == {
        (254, 255): 1,
        (255, 254): 1,
        (255, 255): 1,
    }


# Files


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_tokens_come_back_and_long_ones_stay_in_their_file(tmp_path: Path, dtype: type) -> None:
    for size in (4, corpus.BLOCK + 1):
        written = np.arange(size).astype(dtype)
        save_tokens({tmp_path / "test.npy": size}, written.dtype, [written])
        split = Split.load(tmp_path / "test.npy", 256)
        assert (split.name, len(split), split.vocabulary_size) == ("test", size, 256)
        assert (split.tokens.dtype, split.tokens.tolist()) == (written.dtype, written.tolist())
        assert isinstance(split.tokens, np.memmap) == (size > corpus.BLOCK)


@given(st.lists(st.lists(st.integers(0, 255))), st.integers(0, 100), DTYPES)
def test_files_are_those_of_numpy_wherever_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[list[int]], percent: int, dtype: "np.dtype[Any]"
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    tokens = np.array([token for block in blocks for token in block], dtype=dtype)
    at = len(tokens) * percent // 100
    paths = [folder / "train.npy", folder / "test.npy"]
    save_tokens(dict(zip(paths, (at, len(tokens) - at), strict=True)), dtype, (np.array(b, dtype) for b in blocks))
    for path, expected in zip(paths, (tokens[:at], tokens[at:]), strict=True):
        np.save(folder / "numpys.npy", expected)
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
def test_a_memory_map_gives_what_its_array_gives(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[int], dtype: "np.dtype[Any]", seed: int
) -> None:
    path = tmp_path_factory.mktemp("tokens") / "train.npy"
    array = np.array(tokens, dtype=dtype)
    np.save(path, array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "BLOCK", 3)
        mapped, loaded = Split.load(path, 5), Split("train", array, 5)
        assert isinstance(mapped.tokens, np.memmap)
        assert np.array_equal(mapped.pairs, loaded.pairs)
    drawn, expected = (next(split.random_windows(3, 2, generator(seed))) for split in (mapped, loaded))
    assert np.array_equal(drawn, expected)
    assert np.array_equal(mapped.even_windows(3, 2), loaded.even_windows(3, 2))


# Windows


@given(st.data(), SEEDS)
def test_every_window_is_a_slice(data: st.DataObject, seed: int) -> None:
    length = data.draw(st.integers(2, 300))
    block_size = data.draw(st.integers(1, length - 1))
    batch_size = data.draw(st.integers(1, 5))
    split = positions(length)
    for windows in (
        next(split.random_windows(batch_size, block_size, generator(seed))),
        split.even_windows(batch_size, block_size),
    ):
        assert (windows.shape, windows.dtype) == ((batch_size, block_size + 1), np.int64)
        assert np.array_equal(windows, windows[:, :1] + np.arange(block_size + 1))
        assert 0 <= windows.min() <= windows.max() < length


def test_random_windows_begin_everywhere_alike() -> None:
    windows = next(positions(6).random_windows(4000, 2, generator(0)))
    starts = np.bincount(windows[:, 0])
    assert len(starts) == 4
    assert (abs(starts - 1000) < 100).all()  # 3.7 standard deviations


def test_successive_batches_are_one_stream_that_the_seed_decides() -> None:
    drawn = [windows[:, 0] for windows in islice(positions(200).random_windows(6, 8, generator(7)), 300)]
    assert np.array_equal(np.concatenate(drawn), generator(7).integers(200 - 8, size=300 * 6))
    again, other = (next(positions(200).random_windows(6, 8, generator(seed)))[:, 0] for seed in (7, 8))
    assert np.array_equal(drawn[0], again)
    assert not np.array_equal(drawn[0], other)


def test_even_windows_reach_from_the_start_to_the_end() -> None:
    assert positions(11).even_windows(3, 2)[:, 0].tolist() == [0, 4, 8]
    assert positions(11).even_windows(1, 2)[:, 0].tolist() == [0]


@given(st.integers(2, 200), st.integers(1, 220), st.integers(1, 50))
def test_blocks_have_every_target_once_with_half_a_block_before_it(length: int, block_size: int, asked: int) -> None:
    targets, contexts = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_LOGITS", asked * length)
        for windows, fresh in positions(length).blocks(block_size):
            assert np.array_equal(windows, windows[:, :1] + np.arange(windows.shape[1]))
            rows, columns = np.nonzero(fresh)
            targets += windows[:, 1:][rows, columns].tolist()
            contexts += (columns + 1).tolist()
    assert targets == list(range(1, length))
    assert max(contexts) <= block_size
    needed = [min(target, block_size - block_size // 2) for target in targets]
    assert all(seen >= least for seen, least in zip(contexts, needed, strict=True))
