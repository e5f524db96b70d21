"""A trained model as a file: weights in float32 as safetensors, its config and vocabulary digest as metadata.

All metadata is one JSON value under one key: safetensors writes several keys in an order that changes from run
to run, and with it the bytes of the file.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save

from charlm.errors import CharlmError
from charlm.files import atomic_write
from charlm.models.bigram import MODELS, BigramLanguageModel
from charlm.text.vocabulary import Vocabulary

METADATA_KEY = "charlm"


class CheckpointError(CharlmError):
    """A checkpoint cannot be loaded, or does not belong to the vocabulary beside it."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"Checkpoint {path}: {problem}.\n`dvc repro` makes one that fits.")


def save_checkpoint(path: Path, model: BigramLanguageModel, name: str, vocabulary: Vocabulary) -> None:
    """Write `model`, called `name` in params.yaml, to `path` in float32; whole or not at all."""
    metadata = {
        "model": name,
        "vocabulary_size": len(vocabulary),
        "vocabulary_sha256": vocabulary.digest,
    }
    weights = {key: value.float().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(weights, {METADATA_KEY: json.dumps(metadata, sort_keys=True)}))


def load_checkpoint(path: Path, vocabulary: Vocabulary) -> BigramLanguageModel:
    """The model in `path`, its weights in float64, ready for exact evaluation.

    Raises CheckpointError, naming the culprit, when the file is not a checkpoint of charlm, was trained with another
    vocabulary, or its weights are not those of its model.
    """
    metadata, weights = _read(path)
    expected = {"vocabulary_size": len(vocabulary), "vocabulary_sha256": vocabulary.digest}
    for key, value in expected.items():
        if metadata.get(key) != value:
            raise CheckpointError(path, f"{key} is {metadata.get(key)}, but the vocabulary given has {value}")
    if metadata.get("model") not in MODELS:
        raise CheckpointError(path, f"model is {metadata.get('model')!r}, known here: {', '.join(MODELS)}")
    model = MODELS[metadata["model"]](len(vocabulary), generator=torch.Generator())
    _check_shapes(path, weights, model.state_dict())
    model.load_state_dict(weights)
    return model


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Metadata and weights of `path`; CheckpointError for a file that holds none."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            if not isinstance(metadata, dict):
                raise CheckpointError(path, "it holds no metadata of charlm")
            return metadata, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 not a dict
    except FileNotFoundError as err:
        raise CheckpointError(path, "there is no such file") from err
    except (safetensors.SafetensorError, OSError, ValueError) as err:
        raise CheckpointError(path, f"it is no checkpoint of charlm ({type(err).__name__}: {err})") from err


def _check_shapes(path: Path, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Raise CheckpointError for the first tensor that is missing, unknown or of another shape."""
    for key in sorted(found.keys() | expected.keys()):
        shapes = [tuple(t[key].shape) if key in t else "no such tensor" for t in (found, expected)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(path, f"{key} is {shapes[0]}, expected {shapes[1]}")
