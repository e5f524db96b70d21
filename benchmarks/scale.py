"""How much is measured: everything, or just enough to show that it runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Sizes of what is timed. A repeat runs every timer of a comparison once."""

    repeats: int = 5
    growth_repeats: int = 3
    side: int = 100
    """Of the arrays of the notebook's speed check, in each of four dimensions."""
    large: int = 100_000_000
    """Bytes of a large text."""
    iterations: int = 5000
    """With the notebook's settings; the notebook itself makes 1,000."""
    lightning_iterations: int = 1000
    wide_iterations: int = 300
    """With batch 64 × block 64."""
    tracked_iterations: int = 100_000
    lengths: tuple[int, int] = (500, 10_000)
    sequences: int = 1000
    """Of the shorter length, as one batch."""
    gpt_iterations: int = 2000
    """Of nanoGPT's recipe; charlm's GPT makes what fits in the same time."""
    gpt_turns: int = 20
    """In which both make their iterations, and after which the loss is measured."""


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
    gpt_iterations=4,
    gpt_turns=2,
)
"""Every step runs, but its times mean nothing."""
