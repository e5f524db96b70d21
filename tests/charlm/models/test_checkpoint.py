"""Checkpoints: their bytes, what comes back from them, and which of them are refused with which words."""

import json
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from charlm.errors import CharlmError
from charlm.files import sha256
from charlm.models import checkpoint
from charlm.models.table import BigramTable
from charlm.random import generator
from charlm.text.vocabulary import Vocabulary
from tests.models_for_tests import bigram, table

VOCABULARY = Vocabulary("ab")
WEIGHT = "token_embedding_table.weight"
METADATA = {
    "model": "bigram",
    "settings": {},
    "block_size": 8,
    "vocabulary_size": 2,
    "vocabulary_sha256": VOCABULARY.digest,
}
GOOD = {WEIGHT: torch.zeros(2, 2)}


def save_bigram(path: Path, vocabulary: Vocabulary = VOCABULARY) -> None:
    checkpoint.save(path, bigram(len(vocabulary)), "bigram", {}, vocabulary)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def problem(path: Path) -> str:
    """What is wrong with the checkpoint in `path`, when all around it is as it is to be."""
    with pytest.raises(CharlmError) as err:
        checkpoint.load(path, VOCABULARY)
    text = str(err.value)
    before, after = f"Checkpoint {path}: ", ".\n`dvc repro` makes one that fits."
    assert (text[: len(before)], text[-len(after) :]) == (before, after)
    return text[len(before) : -len(after)]


# The file


def test_weights_come_back_rounded_to_float32_in_float64(path: Path) -> None:
    vocabulary = Vocabulary.from_texts(["some text"])[0]
    save_bigram(path, vocabulary)
    loaded = checkpoint.load(path, vocabulary)
    assert isinstance(loaded, BigramTable)
    assert loaded.table.dtype == np.float64
    expected = table(len(vocabulary)).table
    assert np.array_equal(loaded.table, expected.astype(np.float32))
    untrained = checkpoint.load_untrained(path, vocabulary, generator(1, "weights"))
    assert isinstance(untrained, BigramTable)
    assert np.array_equal(untrained.table, expected)


def test_the_file_is_these_bytes(path: Path) -> None:
    """A length, a header padded to eight bytes, and the rows: https://huggingface.co/docs/safetensors#format."""
    model = bigram(2)
    model.load_state_dict({WEIGHT: torch.tensor([[0.0, 1.0], [-0.5, 0.1]], dtype=torch.float64)})
    checkpoint.save(path, model, "bigram", {}, VOCABULARY)
    metadata = (
        r"{\"block_size\": 8, \"exact\": false, \"model\": \"bigram\", \"settings\": {}, \"vocabulary_sha256\": "
        r"\"fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603\", \"vocabulary_size\": 2}"
    )
    header = (
        f'{{"__metadata__":{{"charlm":"{metadata}"}},"{WEIGHT}":{{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    assert path.read_bytes() == struct.pack("<Q", len(header)) + header + struct.pack("<4f", 0.0, 1.0, -0.5, 0.1)


def test_bytes_are_the_same_in_every_process(path: Path, run: Callable[..., Any]) -> None:
    """The metadata once were under three keys, which safetensors writes in an order that it draws each time."""
    save_bigram(path)
    script = (
        f"import runpy; here = runpy.run_path({__file__!r})\n"
        "for _ in range(5):\n"
        f"    path = here['Path']({str(path.with_name('again'))!r})\n"
        "    here['save_bigram'](path)\n"
        "    print(here['sha256'](path))\n"
    )
    digests = run(Path(__file__).parents[3], sys.executable, "-c", script, PYTHONHASHSEED="1").stdout.split()
    assert digests == [sha256(path)] * 5


def test_a_save_that_fails_leaves_the_old_file_and_no_other(path: Path) -> None:
    save_bigram(path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_bigram(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# What is refused


def test_the_wrong_vocabulary_is_told_by_its_size_or_by_its_digest(path: Path) -> None:
    other = Vocabulary("ac")
    save_bigram(path, other)
    assert problem(path) == (f"vocabulary_sha256 is {other.digest}, but the vocabulary given has {VOCABULARY.digest}")
    save_bigram(path, Vocabulary("abc"))
    assert problem(path) == "vocabulary_size is 3, but the vocabulary given has 2"


@pytest.mark.parametrize(
    ("changes", "weights", "expected"),
    [
        ({"model": "rnn"}, GOOD, "model is 'rnn', known here: bigram, mlp, gru, gpt"),
        ({"model": None}, GOOD, "model is None, known here: bigram, mlp, gru, gpt"),
        ({}, {WEIGHT: torch.zeros(2, 3)}, f"{WEIGHT} is (2, 3), expected (2, 2)"),
        ({}, {}, f"{WEIGHT} is missing, expected (2, 2)"),
        ({}, GOOD | {"lm_head.bias": torch.zeros(2)}, "lm_head.bias is (2,), expected no such tensor"),
    ],
)
def test_what_does_not_fit_its_model_is_named(
    path: Path, changes: dict[str, Any], weights: dict[str, torch.Tensor], expected: str
) -> None:
    path.write_bytes(save(weights, {"charlm": json.dumps(METADATA | changes)}))
    assert problem(path) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (save(GOOD, {"charlm": ""}), "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        (b"", "SafetensorError: Error while deserializing header: header too small"),
        (b"not a checkpoint", "SafetensorError: Error while deserializing header: header too large"),
        (
            save(GOOD, {"charlm": json.dumps(METADATA)})[:-1],
            "SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered",
        ),
    ],
    ids=["with empty metadata", "empty", "text", "cut off"],
)
def test_a_file_that_is_no_checkpoint_is_refused(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    assert problem(path) == f"it is no checkpoint of charlm ({reason})"


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"charlm": "[]"}, {"charlm": "null"}])
def test_weights_without_our_metadata_are_refused(path: Path, metadata: dict[str, str] | None) -> None:
    path.write_bytes(save(GOOD, metadata))
    assert problem(path) == "it has no metadata of charlm"


def test_a_folder_is_no_checkpoint(path: Path) -> None:
    path.mkdir(parents=True)
    assert problem(path).startswith("it is no checkpoint of charlm (")


@pytest.mark.parametrize("changes", [{"settings": None}, {"block_size": ...}], ids=["none", "missing"])
def test_metadata_of_other_code_are_refused(path: Path, changes: dict[str, Any]) -> None:
    metadata = {key: value for key, value in (METADATA | changes).items() if value is not ...}
    path.write_bytes(save(GOOD, {"charlm": json.dumps(metadata)}))
    assert problem(path).startswith("its model was made with other settings than this code knows (")


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    assert problem(path) == "there is no such file"
