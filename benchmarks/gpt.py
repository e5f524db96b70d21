"""The loss of charlm's GPT by the seconds that it trained, beside that of nanoGPT's recipe, on the project's text.

The two take turns, so that both find the machine in the same state. charlm's GPT
makes as many iterations as fit in the baseline's time. The clock stops while the test split is measured.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks import nanogpt
from charlm.config import load_params
from charlm.errors import CharlmError
from charlm.models.base import LanguageModel
from charlm.models.gpt import GPT
from charlm.random import generator
from charlm.text.corpus import Split, load_splits
from charlm.text.vocabulary import Vocabulary
from charlm.training.loop import train

OURS, BASELINE = "charlm's GPT", "nanoGPT's recipe"
SETTINGS = {"threads": f"{torch.get_num_threads()}, PyTorch's default", "texts": "the project's own, in data/prepare"}
"""Where they differ from those of the table."""


@dataclass
class LearningCurve:
    """Test losses in nats per character after so many seconds of training, the first before it."""

    name: str
    parameters: int
    iterations: int
    seconds: list[float] = field(default_factory=lambda: [0.0])
    losses: list[float] = field(default_factory=list)

    def seconds_to(self, loss: float) -> float | None:
        """Seconds until the first measurement of `loss` or less; None if there is none."""
        measured = zip(self.seconds, self.losses, strict=True)
        return next((seconds for seconds, found in measured if found <= loss), None)


class Run:
    """A training run that goes on a turn at a time, and its learning curve so far."""

    def __init__(self, name: str, model: LanguageModel, steps: Iterator[object], iterations: int, test: Split) -> None:
        size = sum(parameter.numel() for parameter in model.parameters())
        self.curve = LearningCurve(name, size, iterations)
        self._model, self._steps, self._test = model, steps, test
        self._measure()

    def advance(self) -> None:
        """Train for a turn, then measure."""
        start = time.perf_counter()
        next(self._steps)
        self.curve.seconds.append(self.curve.seconds[-1] + time.perf_counter() - start)
        self._measure()

    def _measure(self) -> None:
        self.curve.losses.append(LanguageModel.loss_over(self._model, self._test))


class _Unmeasured(GPT):
    """A GPT that its training loop does not measure: `Run` does, while the clock stands still."""

    def loss_over(self, *_: object) -> float:
        return 0.0

    def estimated_loss(self, *_: object) -> float:
        return 0.0


def start(root: Path, iterations: int, turns: int) -> list[Run]:
    """Both runs before the first of `turns`. The baseline makes `iterations`, charlm's GPT what fits in its time."""
    prepare = root / "data/prepare"
    if not prepare.is_dir():
        raise CharlmError(f"There is no text in {prepare}.", fix="Run `make repro` first.")
    splits = load_splits(prepare, len(Vocabulary.load(prepare / "vocabulary.json")))
    trials = _ours(root, splits, iterations, turns), _baseline(splits, iterations, turns)
    for run in (*trials, *trials):  # the first turn also warms up
        run.advance()
    ours, baseline = (run.curve.seconds[2] - run.curve.seconds[1] for run in trials)
    equal = max(1, round(iterations / turns * baseline / ours)) * turns
    return [_ours(root, splits, equal, turns), _baseline(splits, iterations, turns)]


def _ours(root: Path, splits: tuple[Split, Split], iterations: int, turns: int) -> Run:
    """recipes/gpt.yaml in float32, with another number of iterations."""
    params = load_params(root / "recipes/gpt.yaml")
    changes = {"max_iters": iterations, "eval_interval": iterations // turns, "precision": "float32"}
    settings = params.train.model_copy(update=changes)
    weights, batches = (generator(settings.seed, purpose) for purpose in ("weights", "batches"))
    sections = params.model.settings.model_dump()
    model = _Unmeasured.initial(splits[0].vocabulary_size, settings.block_size, weights, "float32", **sections)
    points = train(model, splits, settings, batches)
    next(points)  # before the first step
    return Run(OURS, model, points, iterations, splits[1])


def _baseline(splits: tuple[Split, Split], iterations: int, turns: int) -> Run:
    torch.manual_seed(1337)
    model = nanogpt.NanoGPT(splits[0].vocabulary_size)
    steps = nanogpt.train(model, splits[0], iterations, iterations // turns)
    return Run(BASELINE, model, steps, iterations, splits[1])
