"""Seeded generators."""

from typing import get_args

import numpy as np
import pytest

from charlm.random import Purpose, generator


@pytest.mark.parametrize("seed", [0, 1337, 2**63 - 1])
def test_every_purpose_has_a_stream_of_its_own_spawned_from_the_seed(seed: int) -> None:
    children = np.random.SeedSequence(seed).spawn(4)
    assert get_args(Purpose) == ("weights", "batches", "text", "dropout")
    drawn = [generator(seed, purpose).random(4).tolist() for purpose in get_args(Purpose)]
    assert drawn == [np.random.default_rng(child).random(4).tolist() for child in children]
    assert len({tuple(numbers) for numbers in drawn}) == 4
