"""A trained model as a file: weights in float32 as safetensors, what it takes to build it as metadata.

All metadata is one JSON value under one key: safetensors writes several keys in an order that changes from run
to run, and with it the bytes of the file.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from charlm.config import MODELS
from charlm.errors import CharlmError
from charlm.files import atomic_write
from charlm.models import predictor_class
from charlm.models.predictor import Predictor
from charlm.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from charlm.models.base import LanguageModel

METADATA_KEY = "charlm"


def save(path: Path, model: "LanguageModel", name: str, settings: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Write `model`, called `name` in params.yaml and made with `settings`, to `path`; complete or not at all."""
    metadata = {
        "model": name,
        "settings": settings,
        "block_size": model.block_size,
        "exact": model.exact,
        "vocabulary_size": len(vocabulary),
        "vocabulary_sha256": vocabulary.digest,
    }
    weights = {key: value.float().cpu().contiguous().numpy() for key, value in model.state_dict().items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save_tensors(weights, {METADATA_KEY: json.dumps(metadata, sort_keys=True)}))


def load(path: Path, vocabulary: Vocabulary) -> Predictor:
    """The model in `path`, ready to be measured and asked for text.

    Raises CharlmError, naming the culprit, when the file is not a checkpoint of charlm, was trained with another
    vocabulary, or its weights are not those of its model.
    """
    metadata, weights = _read(path)
    model = _initial(path, metadata, vocabulary, np.random.default_rng(0))
    try:
        model.load_weights(weights)
    except ValueError as err:
        raise _problem(path, str(err)) from err
    return model


def load_untrained(path: Path, vocabulary: Vocabulary, rng: np.random.Generator) -> Predictor:
    """The model in `path` as it was before its first step, its weights drawn from `rng`; raises as `load`."""
    metadata, _ = _read(path)
    return _initial(path, metadata, vocabulary, rng)


def _initial(path: Path, metadata: dict[str, Any], vocabulary: Vocabulary, rng: np.random.Generator) -> Predictor:
    """A model of the kind that `metadata` describe."""
    expected = {"vocabulary_size": len(vocabulary), "vocabulary_sha256": vocabulary.digest}
    for key, value in expected.items():
        if metadata.get(key) != value:
            raise _problem(path, f"{key} is {metadata.get(key)}, but the vocabulary given has {value}")
    if metadata.get("model") not in list(MODELS):
        raise _problem(path, f"model is {metadata.get('model')!r}, known here: {', '.join(MODELS)}")
    try:
        return predictor_class(metadata["model"]).initial(
            len(vocabulary),
            metadata["block_size"],
            rng,
            "exact" if metadata.get("exact") else None,
            **metadata["settings"],
        )
    except (TypeError, KeyError) as err:
        raise _problem(path, f"its model was made with other settings than this code knows ({err})") from err


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Metadata and weights of `path`; CharlmError for a file that has none."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            if not isinstance(metadata, dict):
                raise _problem(path, "it has no metadata of charlm")
            return metadata, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 not a dict
    except FileNotFoundError as err:
        raise _problem(path, "there is no such file") from err
    except (safetensors.SafetensorError, OSError, ValueError) as err:
        raise _problem(path, f"it is no checkpoint of charlm ({type(err).__name__}: {err})") from err


def _problem(path: Path, problem: str) -> CharlmError:
    return CharlmError(f"Checkpoint {path}: {problem}.", fix="`dvc repro` makes one that fits.")
