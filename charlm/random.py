"""Seeded generators: one for each purpose, so that no two draw the same stream and none is global."""

from typing import Literal

import numpy as np

Purpose = Literal["weights", "batches", "text", "dropout"]
_STREAMS: dict[Purpose, int] = {"weights": 0, "batches": 1, "text": 2, "dropout": 3}


def generator(seed: int, purpose: Purpose) -> np.random.Generator:
    """NumPy's default generator for `purpose`, spawned from `seed` as numpy.random.SeedSequence spawns streams."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAMS[purpose],)))
