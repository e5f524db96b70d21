"""The training loop: a model, two splits and settings in, points of the loss curve out.

It has no files, no tracking and no clock, and knows of a model only what `charlm.models.base` says.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from charlm.training.optimizer import Optimizer
from charlm.training.processes import Processes
from charlm.training.resume import State

MicroBatch = tuple[Windows, int]
"""Windows (B, T + 1), and a seed."""

LARGEST_LOSS = math.log(sys.float_info.max)
"""Nats per character, about 709: above it the perplexity is no longer a float64."""


def train(
    model: LanguageModel,
    splits: Sequence[Split],
    settings: TrainParams,
    rng: np.random.Generator,
    *,
    processes: Processes | None = None,
    state: State | None = None,
    save: Callable[[State], None] | None = None,
) -> Iterator[Point]:
    """Train `model` in place on the first of `splits`, train and test; yield points of the loss curve of both.

    There is one before the first step, at every eval_interval and after the last step. They are estimates, but for the
    last, which is exact and of the weights in float32, as a checkpoint keeps them: the model has such weights at the
    end. `rng` draws the batches, on the CPU. From a `state` that an earlier run has given to `save` the points up to
    it come again, and training goes on to the same end.

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

    optimizer = Optimizer(list(model.parameters()), model.hidden_matrices(), settings)
    tensors = {f"weights.{name}": tensor for name, tensor in model.state_dict().items()} | optimizer.state
    points = [point(0, estimate, None)] if state is None else _restored(tensors, state)
    yield from points
    batches = _batches(splits[0], settings, rng, points[-1].step)
    for step in range(points[-1].step + 1, settings.max_iters + 1):
        batch_loss, gradients = _gradients(model, next(batches), processes)
        _checked(batch_loss, step, settings)
        optimizer.update(gradients, step)
        if step == settings.max_iters:
            model.float()
            yield point(step, model.loss_over, batch_loss)
        elif step % settings.eval_interval == 0:
            points.append(point(step, estimate, batch_loss))
            if save is not None:
                save(State(points, tensors))
            yield points[-1]


@torch.no_grad()
def _restored(tensors: Mapping[str, Tensor], state: State) -> list[Point]:
    """Copy `state` into `tensors`; its points."""
    for name, tensor in tensors.items():
        tensor.copy_(state.tensors[name])
    return list(state.points)


def _batches(split: Split, settings: TrainParams, rng: np.random.Generator, start: int) -> Iterator[list[MicroBatch]]:
    """The micro-batches of each step after `start`, each with a seed for its dropout.

    What is dropped depends on no other micro-batch, nor on the process that computes it.
    """
    windows = split.random_windows(settings.batch_size, settings.block_size, rng)
    size, first = settings.gradient_accumulation_steps, int(generator(settings.seed, "dropout").integers(2**32))
    seeded = islice(zip(windows, count(first), strict=False), start * size, None)
    while True:
        yield list(islice(seeded, size))


def _gradients(
    model: LanguageModel, micro_batches: Sequence[MicroBatch], processes: Processes | None
) -> tuple[float, list[Tensor]]:
    """The mean loss of `micro_batches` and its gradient by each parameter."""
    device = next(model.parameters()).device
    found = []
    for windows, seed in micro_batches if processes is None else processes.share(micro_batches):
        batch = torch.from_numpy(windows).to(device)  # (B, T + 1)
        found.append(model.loss_and_gradients(batch[:, :-1], batch[:, 1:], seed))
    loss, gradients = mean(found if processes is None else processes.gather(found))
    return float(loss), gradients


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
