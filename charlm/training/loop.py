"""The training loop: a model, two splits and settings in, points of the loss curve out.

It has no files, no tracking and no clock, and knows of a model only what `charlm.models.base` says.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor

from charlm.config import TrainParams
from charlm.errors import CharlmError
from charlm.models.base import LanguageModel
from charlm.random import generator
from charlm.text.corpus import Split, Windows
from charlm.training.history import Point
from charlm.training.optimizer import optimizer
from charlm.training.processes import Processes

LARGEST_LOSS = math.log(sys.float_info.max)
"""Nats per character, about 709: above it the perplexity is no longer a float64."""


def train(
    model: LanguageModel,
    splits: Sequence[Split],
    settings: TrainParams,
    rng: np.random.Generator,
    *,
    processes: Processes | None = None,
) -> Iterator[Point]:
    """Train `model` in place on the first of `splits`, train and test; yield points of the loss curve of both.

    There is one before the first step, at every eval_interval and after the last step. They are estimates, but for the
    last, which is exact and of the weights in float32, as a checkpoint keeps them: the model has such weights at the
    end. `rng` draws the batches, on the CPU.

    Raises CharlmError before the first step when a split is shorter than a block, and at the step at which a loss is
    no longer a number.
    """
    for split in splits:
        split.require_block(settings.block_size)

    def point(step: int, loss: Callable[[Split], float], batch_loss: float | None) -> Point:
        train_loss, test_loss = (_checked(loss(split), step, settings) for split in splits)
        return Point(step, train_loss, test_loss, batch_loss)

    def estimate(split: Split) -> float:
        return model.estimated_loss(split, settings.batch_size, settings.eval_iters)

    update = optimizer(list(model.parameters()), model.hidden_matrices(), settings)
    yield point(0, estimate, None)
    windows = splits[0].random_windows(settings.batch_size, settings.block_size, rng)
    batch_losses = _steps(model, windows, settings, update, processes)
    for step, batch_loss in enumerate(batch_losses, start=1):
        if step == settings.max_iters:
            model.float()
            yield point(step, model.loss_over, batch_loss)
        elif step % settings.eval_interval == 0:
            yield point(step, estimate, batch_loss)


def _steps(
    model: LanguageModel,
    windows: Iterator[Windows],
    settings: TrainParams,
    update: Callable[[Sequence[Tensor], int], None],
    processes: Processes | None,
) -> Iterator[float]:
    """Make max_iters steps; yield the loss of each one's batch before its update."""
    device = next(model.parameters()).device
    # One seed for each micro-batch: dropout depends neither on the others nor on the process that computes it.
    seeded = zip(windows, count(int(generator(settings.seed, "dropout").integers(2**32))), strict=False)
    for step in range(1, settings.max_iters + 1):
        micro_batches = list(islice(seeded, settings.gradient_accumulation_steps))  # of shape (B, T + 1)
        mine = micro_batches if processes is None else processes.share(micro_batches)
        tokens = [(torch.from_numpy(batch).to(device), seed) for batch, seed in mine]
        found = [model.loss_and_gradients(batch[:, :-1], batch[:, 1:], seed) for batch, seed in tokens]
        loss, gradients = mean(found if processes is None else processes.gather(found))
        batch_loss = _checked(float(loss), step, settings)
        update(gradients, step)
        yield batch_loss


def mean(found: Sequence[tuple[Tensor, list[Tensor]]]) -> tuple[Tensor, list[Tensor]]:
    """The mean of the losses and of the gradients of micro-batches, added in their order."""
    if len(found) == 1:
        return found[0]
    losses, gradients = zip(*found, strict=True)
    return _mean(losses), [_mean(of_parameter) for of_parameter in zip(*gradients, strict=True)]


def _mean(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0].clone()
    for term in terms[1:]:
        total += term
    return total / len(terms)


def _checked(loss: float, step: int, settings: TrainParams) -> float:
    """`loss`, if it means anything."""
    if not loss <= LARGEST_LOSS:
        rates = [f"train.learning_rate={settings.learning_rate:g}"]
        if settings.optimizer == "muon":
            rates.append(f"train.muon_learning_rate={settings.muon_learning_rate:g}")
        raise CharlmError(
            f"The loss at step {step} is {loss}; nothing was saved.",
            fix=f"Most likely {' or '.join(rates)} is too high for {settings.dtype}: try a tenth of it.",
        )
    return loss
