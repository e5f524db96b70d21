"""The training loop: a corpus, a model and settings in, points of the loss curve out.

It is pure: no files, no tracking, no clock. AdamW as in Loshchilov and Hutter, "Decoupled weight decay
regularization" (2019), with PyTorch's default betas (0.9, 0.999) and epsilon 1e-8.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 the name that PyTorch's own documentation gives it
from torch.optim.adamw import adamw

from charlm.config import TrainParams
from charlm.errors import CharlmError
from charlm.evaluation import LARGEST_LOSS, mean_loss
from charlm.models.bigram import BigramLanguageModel
from charlm.text.corpus import Tokens, batches, pair_counts, require_block
from charlm.training.history import Point
from charlm.training.processes import Processes

DTYPES = {"float64": torch.float64, "float32": torch.float32}


class DivergedError(CharlmError):
    """The loss is no longer a number that means anything."""

    def __init__(self, step: int, loss: float, settings: TrainParams) -> None:
        super().__init__(
            f"The loss at step {step} is {loss}; nothing was saved.\n"
            f"Most likely train.learning_rate={settings.learning_rate:g} is too high for {settings.dtype}: "
            "try a tenth of it."
        )


class DeviceError(CharlmError):
    """The device that params.yaml asks for is not there, or cannot compute in its dtype."""

    def __init__(self, device: str, problem: str, choices: list[str]) -> None:
        super().__init__(
            f"train.device={device}: {problem}.\n"
            f"Devices here that can: {', '.join(choices)}; `auto` takes the first of them."
        )


def resolve_device(name: str, dtype: str) -> torch.device:
    """The device `name`, or for `auto` the fastest one here that computes in `dtype`; else DeviceError."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    unable = {"mps"} if dtype == "float64" else set()
    choices = [device for device, present in here.items() if present and device not in unable]
    if name == "auto":
        return torch.device(choices[0])
    if name in unable:
        raise DeviceError(name, f"it cannot compute in train.dtype={dtype}", choices)
    if name not in choices:
        raise DeviceError(name, "PyTorch finds no such device on this machine", choices)
    return torch.device(name)


def train(
    model: BigramLanguageModel,
    train_tokens: Tokens,
    test_tokens: Tokens,
    settings: TrainParams,
    generator: torch.Generator,
    *,
    processes: Processes | None = None,
) -> Iterator[Point]:
    """Train `model` in place; yield a Point before the first step, at every eval_interval and after the last step.

    Tokens are of shape (N,), the batches of (batch_size, block_size), drawn by `generator` on the CPU and moved to
    the model's device. Raises SplitTooShortError before the first step and DivergedError at the step it happens.
    Each of several `processes` draws every batch, takes its share of it and goes the same way, to the bit.
    """
    for name, tokens in (("train", train_tokens), ("test", test_tokens)):
        require_block(name, tokens, settings.block_size)
    measure = _measure(model, train_tokens, test_tokens, settings)
    update = _optimizer(model.table, settings)
    yield measure(0, None)
    drawn = batches(train_tokens, settings.batch_size, settings.block_size, generator)
    for step, batch in zip(range(1, settings.max_iters + 1), drawn, strict=False):
        loss, gradient = _backward(model, *batch, processes)
        if not math.isfinite(loss):
            raise DivergedError(step, loss, settings)
        update(gradient)
        if step % settings.eval_interval == 0 or step == settings.max_iters:
            yield measure(step, loss)


def _measure(
    model: BigramLanguageModel, train_tokens: Tokens, test_tokens: Tokens, settings: TrainParams
) -> Callable[[int, float | None], Point]:
    """A function that measures the model on the whole of both splits; DivergedError for a loss beyond measure."""
    size = len(model.table)
    train, test = (torch.from_numpy(pair_counts(tokens, size)) for tokens in (train_tokens, test_tokens))

    def measure(step: int, batch_loss: float | None) -> Point:
        point = Point(step, mean_loss(model.table, train), mean_loss(model.table, test), batch_loss)
        for loss in (point.train_loss, point.test_loss):
            if not loss <= LARGEST_LOSS:
                raise DivergedError(step, loss, settings)
        return point

    return measure


def _backward(
    model: BigramLanguageModel, contexts: Tensor, targets: Tensor, processes: Processes | None
) -> tuple[float, Tensor]:
    """The loss of a batch, contexts and targets (B, T), and its gradient by the model's table, (V, V)."""
    if processes is not None:
        return _backward_in_turn(model, contexts, targets, processes)
    table = model.table
    _, loss = model(contexts.to(table.device), targets.to(table.device))
    return loss.item(), torch.autograd.grad(loss, table)[0]


def _backward_in_turn(
    model: BigramLanguageModel, contexts: Tensor, targets: Tensor, processes: Processes
) -> tuple[float, Tensor]:
    """The same by several processes: the gradient to the bit, the loss but for its last bits.

    Each process computes the loss and its gradient by the logits for its n positions. A row of the table's gradient
    is the sum of those of its character, which is taken over all positions of the batch in their order.
    """
    here, after = (processes.share(part).flatten().to(model.table.device) for part in (contexts, targets))  # (n,)
    logits = model(here)[0].detach().requires_grad_()  # (n, V)
    losses = F.cross_entropy(logits, after, reduction="none")  # (n,)
    (slopes,) = torch.autograd.grad(losses, logits, torch.full_like(losses, 1 / contexts.numel()))  # (n, V)
    terms = torch.cat([slopes, losses.detach()[:, None]], dim=1)  # (n, V + 1)
    nothing = model.table.new_zeros(len(model.table), terms.shape[1])  # (V, V + 1)
    sums = processes.in_turn(nothing, lambda sums: _add_by_index(sums, here, terms))
    return float(sums[:, -1].sum() / contexts.numel()), sums[:, :-1].contiguous()


def _add_by_index(sums: Tensor, index: Tensor, terms: Tensor) -> Tensor:
    """`sums` (R, C) with `terms` (n, C) added to the rows that `index` (n,) says, one after the other.

    It is the gradient of a look-up in a table; Tensor.index_add is not repeatable on a GPU.
    """
    every = torch.arange(len(sums), device=index.device)
    table = torch.zeros_like(sums, requires_grad=True)
    looked_up = F.embedding(torch.cat([every, index]), table)  # (R + n, C)
    return torch.autograd.grad(looked_up, table, torch.cat([sums, terms]))[0]


def _optimizer(table: Tensor, settings: TrainParams) -> Callable[[Tensor], None]:
    """A function that makes one step of AdamW in `table` from its gradient.

    PyTorch's functional form: constructing torch.optim.AdamW imports its compiler, which takes over a second, and
    every step of it costs more. The result is that of AdamW(fused=True) to the bit.
    """
    mean, square = torch.zeros_like(table), torch.zeros_like(table)
    step = torch.zeros((), dtype=torch.float32, device=table.device)

    @torch.no_grad()
    def update(gradient: Tensor) -> None:
        adamw(
            [table],
            [gradient],
            [mean],
            [square],
            max_exp_avg_sqs=[],
            state_steps=[step],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    return update
