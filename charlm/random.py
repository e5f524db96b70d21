"""Seeded generators: one for each purpose, so that no two draw the same stream and none is global."""

from typing import Literal

import numpy as np
import torch

Purpose = Literal["weights", "batches", "text"]
_STREAMS: dict[Purpose, int] = {"weights": 0, "batches": 1, "text": 2}


def seeded_generator(seed: int, purpose: Purpose) -> torch.Generator:
    """A generator on the CPU for `purpose`, its seed spawned from `seed` as NumPy spawns independent streams.

    See numpy.random.SeedSequence. A draw on the CPU is the same on every machine; what it draws is then moved to
    the device.
    """
    state = np.random.SeedSequence(seed, spawn_key=(_STREAMS[purpose],)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
