"""Checkpoints: their bytes, what comes back from them, and which of them are refused with which words."""

import json
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from charlm.files import sha256
from charlm.models.bigram import BigramLanguageModel
from charlm.models.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from charlm.random import seeded_generator
from charlm.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary("ab")
WEIGHT = "token_embedding_table.weight"
METADATA = {"model": "bigram", "vocabulary_size": 2, "vocabulary_sha256": VOCABULARY.digest}
GOOD = {WEIGHT: torch.zeros(2, 2)}


def random_model(size: int = 2, dtype: torch.dtype = torch.float64) -> BigramLanguageModel:
    return BigramLanguageModel(size, generator=seeded_generator(1, "weights"), dtype=dtype)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def problem(path: Path) -> str:
    """What is wrong with the checkpoint in `path`, when all around it is as it is to be."""
    with pytest.raises(CheckpointError) as err:
        load_checkpoint(path, VOCABULARY)
    text = str(err.value)
    before, after = f"Checkpoint {path}: ", ".\n`dvc repro` makes one that fits."
    assert (text[: len(before)], text[-len(after) :]) == (before, after)
    return text[len(before) : -len(after)]


# The file


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_come_back_rounded_to_float32_in_float64(path: Path, dtype: torch.dtype) -> None:
    vocabulary = Vocabulary.from_text("some text")
    model = random_model(len(vocabulary), dtype)
    save_checkpoint(path, model, "bigram", vocabulary)
    loaded = load_checkpoint(path, vocabulary)
    assert isinstance(loaded, BigramLanguageModel)
    assert loaded.table.dtype == torch.float64
    assert torch.equal(loaded.table, model.table.float().double())


def test_the_file_is_these_bytes(path: Path) -> None:
    """A length, a header padded to eight bytes, and the rows: https://huggingface.co/docs/safetensors#format."""
    model = BigramLanguageModel(2)
    model.load_state_dict({WEIGHT: torch.tensor([[0.0, 1.0], [-0.5, 0.1]], dtype=torch.float64)})
    save_checkpoint(path, model, "bigram", VOCABULARY)
    metadata = (
        r"{\"model\": \"bigram\", \"vocabulary_sha256\": "
        r"\"fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603\", \"vocabulary_size\": 2}"
    )
    header = (
        f'{{"__metadata__":{{"charlm":"{metadata}"}},"{WEIGHT}":{{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    assert path.read_bytes() == struct.pack("<Q", len(header)) + header + struct.pack("<4f", 0.0, 1.0, -0.5, 0.1)


def test_bytes_are_the_same_in_every_process(path: Path, run: Callable[..., Any]) -> None:
    """The metadata once stood under three keys, which safetensors writes in an order that it draws anew each time."""
    save_checkpoint(path, random_model(), "bigram", VOCABULARY)
    script = (
        "from pathlib import Path\n"
        "from charlm.models.checkpoint import *\n"
        "from charlm.files import sha256\n"
        "from charlm.random import seeded_generator\n"
        "for _ in range(5):\n"
        "    model = BigramLanguageModel(2, generator=seeded_generator(1, 'weights'))\n"
        "    save_checkpoint(Path('again'), model, 'bigram', Vocabulary('ab'))\n"
        "    print(sha256(Path('again')))\n"
    )
    for seed in ("0", "1"):
        digests = run(path.parent, sys.executable, "-c", script, PYTHONHASHSEED=seed).stdout.split()
        assert digests == [sha256(path)] * 5


def test_a_save_that_fails_leaves_the_old_file_and_no_other(path: Path) -> None:
    save_checkpoint(path, random_model(), "bigram", VOCABULARY)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(path, BigramLanguageModel(2), "bigram", VOCABULARY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# What is refused


def test_the_wrong_vocabulary_is_told_by_its_size_or_by_its_digest(path: Path) -> None:
    other = Vocabulary("ac")
    save_checkpoint(path, random_model(), "bigram", other)
    assert problem(path) == (f"vocabulary_sha256 is {other.digest}, but the vocabulary given has {VOCABULARY.digest}")
    save_checkpoint(path, random_model(3), "bigram", Vocabulary("abc"))
    assert problem(path) == "vocabulary_size is 3, but the vocabulary given has 2"


@pytest.mark.parametrize(
    ("changes", "weights", "expected"),
    [
        ({"model": "gpt"}, GOOD, "model is 'gpt', known here: bigram"),
        ({"model": None}, GOOD, "model is None, known here: bigram"),
        ({}, {WEIGHT: torch.zeros(2, 3)}, f"{WEIGHT} is (2, 3), expected (2, 2)"),
        ({}, {}, f"{WEIGHT} is no such tensor, expected (2, 2)"),
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
    assert problem(path) == "it holds no metadata of charlm"


def test_a_folder_is_no_checkpoint(path: Path) -> None:
    path.mkdir(parents=True)
    assert problem(path).startswith("it is no checkpoint of charlm (")


def test_loading_leaves_the_global_generator_alone(path: Path) -> None:
    """It drew the weights that it then replaced from PyTorch's global generator."""
    save_checkpoint(path, random_model(), "bigram", VOCABULARY)
    before = torch.get_rng_state()
    load_checkpoint(path, VOCABULARY)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    assert problem(path) == "there is no such file"
