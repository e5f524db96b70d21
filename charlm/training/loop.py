"""The training loop: a model, two splits and settings in, points of the loss curve out.

It has no files, no tracking and no clock, and knows of a model only what `charlm.models.base` says.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor

from charlm.config import TrainParams
from charlm.errors import CharlmError
from charlm.exact.elementary import MANTISSA, bits_of
from charlm.exact.errors import NotExact
from charlm.exact.grid import on_grid
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
    on_step: Callable[[int, float], None] | None = None,
) -> Iterator[Point]:
    """Train `model` in place on the first of `splits`, train and test; yield points of the loss curve of both.

    There is one before the first step, at every eval_interval and after the last step. They are estimates, but for the
    last, which is exact and of the weights in float32, as a checkpoint keeps them: the model has such weights at the
    end. `rng` draws the batches, on the CPU. From a `state` that an earlier run has given to `save` the points up to
    it come again, and training goes on to the same end. `on_step` gets the number of each step and its batch's loss.

    Raises CharlmError before the first step when a split is shorter than a block, and at the step at which a loss is
    no longer a number.
    """
    for split in splits:
        split.require_block(settings.block_size)

    def point(step: int, loss: Callable[[Split], float], batch_loss: float | None) -> Point:
        with _refused(model):
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
        with _refused(model):
            batch_loss, gradients = _gradients(model, next(batches), processes)
        _checked(batch_loss, step, settings)
        optimizer.update(gradients, step)
        if on_step is not None:
            on_step(step, batch_loss)
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
    loss, gradients = mean(found, len(micro_batches), processes, exact=model.exact)
    return float(loss), gradients


def mean(
    found: Sequence[tuple[Tensor, list[Tensor]]], count: int, processes: Processes | None, *, exact: bool
) -> tuple[Tensor, list[Tensor]]:
    """The mean losses and gradients of `count` micro-batches, of which this process has `found` its share.

    They are added in the order of the micro-batches, or if `exact` in any.
    """
    if count == 1:
        return found[0]
    if exact:
        return _exact_mean(found, count, processes)
    losses, gradients = zip(*(found if processes is None else processes.gather(found)), strict=True)
    return _mean(losses), [_mean(of_parameter) for of_parameter in zip(*gradients, strict=True)]


def _exact_mean(
    found: Sequence[tuple[Tensor, list[Tensor]]], count: int, processes: Processes | None
) -> tuple[Tensor, list[Tensor]]:
    """The same on a grid that all processes share, so that their sums are exact."""
    dtype = found[0][0].dtype
    flat = [torch.cat([loss.view(1), *(g.flatten() for g in gradients)]) for loss, gradients in found]
    rows = torch.stack(flat).double()  # float32 has no room for the sum of more than four
    largest = rows.abs().max()
    if processes is not None:
        processes.largest(largest)
    sums = on_grid(rows, min(MANTISSA - 2, MANTISSA - bits_of(count)), largest).sum(0)
    if processes is not None:
        processes.add(sums)
    shapes = [torch.Size([]), *(gradient.shape for gradient in found[0][1])]
    parts = torch.split(sums.div_(count).to(dtype), [shape.numel() for shape in shapes])
    loss, *gradients = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
    return loss, gradients


def _mean(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0].clone()
    for term in terms[1:]:
        total += term
    return total / len(terms)


def _checked(loss: float, step: int, settings: TrainParams) -> float:
    """`loss`, if it means anything."""
    if not loss <= LARGEST_LOSS:
        raise CharlmError(f"The loss at step {step} is {loss}; nothing was saved.", fix=_lower_rate(settings))
    return loss


@contextmanager
def _refused(model: LanguageModel) -> Iterator[None]:
    """Turn NotExact into a CharlmError that names the model and the operation."""
    try:
        yield
    except NotExact as err:
        raise CharlmError(
            f"train.precision is exact, but {type(model).__name__} uses an operation that has no exact form.",
            str(err),
            "Set train.precision to float64 or float32, or write the model with operations that have one.",
        ) from err


def _lower_rate(settings: TrainParams) -> str:
    rates = [f"train.learning_rate={settings.learning_rate:g}"]
    if settings.optimizer == "muon":
        rates.append(f"train.muon_learning_rate={settings.muon_learning_rate:g}")
    return f"Most likely {' or '.join(rates)} is too high for {settings.precision}: try a tenth of it."
