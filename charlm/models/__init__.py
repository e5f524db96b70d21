"""The models by their names in params.yaml: what learns, and what a checkpoint is loaded as.

A model's file is imported when it is asked for, so that evaluating and sampling a bigram needs no torch.
"""

import pkgutil
from typing import TYPE_CHECKING

from charlm.config import MODELS

if TYPE_CHECKING:
    from charlm.models.base import LanguageModel
    from charlm.models.predictor import Predictor


def trainable_class(name: str) -> "type[LanguageModel]":
    """The class of the model `name` that can learn."""
    found: type[LanguageModel] = pkgutil.resolve_name(f"{__name__}.{MODELS[name].trainable}")
    return found


def predictor_class(name: str) -> "type[Predictor]":
    """The class of the model `name` that can be measured and asked for text."""
    found: type[Predictor] = pkgutil.resolve_name(f"{__name__}.{MODELS[name].predictor}")
    return found
