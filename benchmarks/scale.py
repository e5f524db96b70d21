"""How much is measured: all of it, or as little as shows that everything runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Sizes of what is timed. A repeat times every contestant of a row once."""

    repeats: int = 5
    side: int = 100
    """Of the arrays of the notebook's speed check, in each of four dimensions."""
    large: int = 100_000_000
    """Bytes of a large text."""
    iterations: int = 5000
    """At the notebook's settings; the notebook itself makes 1,000."""
    lightning_iterations: int = 1000
    wide_iterations: int = 300
    """At batch 64 x block 64."""
    growth_repeats: int = 3
    tracked_iterations: int = 100_000
    lengths: tuple[int, int] = (500, 10_000)
    sequences: int = 1000
    """Of the shorter length, as one batch."""


QUICK = Scale(
    repeats=1,
    growth_repeats=1,
    side=4,
    large=100_000,
    iterations=100,
    lightning_iterations=100,
    wide_iterations=10,
    tracked_iterations=200,
    lengths=(5, 20),
    sequences=3,
)
"""Not a measurement: every step is taken, its times mean nothing."""
