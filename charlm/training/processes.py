"""A training run shared by several processes: each computes whole micro-batches.

PyTorch's launcher, torchrun, starts them; without it there is one process, and torch.distributed is not used.
An all-reduce adds gradients in an order that depends on the number of processes, and so would the last bits of the
weights. In `exact` their sums are exact and an all-reduce is right; in other precisions gradients are gathered instead,
and every process adds them in the order of the micro-batches.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from charlm.errors import CharlmError, indented
from charlm.training.launcher import LAUNCHER, launched, lost, rank, require_launcher, size

TIMEOUT = timedelta(seconds=30)
"""How long a process waits for another in an iteration, which takes milliseconds. PyTorch's own 30 minutes would hide a
cut network; a few seconds would end a training run on a machine that stalls."""
START_TIMEOUT = timedelta(minutes=5)
"""How long it waits for the others to start: one may read the text from a slow disk or query a distant server."""

T = TypeVar("T")


class Processes:
    """What a process, which torchrun has started and which is connected to the others, does with their help."""

    def share(self, micro_batches: Sequence[T]) -> Sequence[T]:
        """The micro-batches of this process: consecutive, in the order of the ranks."""
        count, rest = divmod(len(micro_batches), size())
        assert rest == 0, "see require_even_shares"
        return micro_batches[rank() * count : (rank() + 1) * count]

    def gather(self, found: Sequence[tuple[Tensor, list[Tensor]]]) -> list[tuple[Tensor, list[Tensor]]]:
        """Loss and gradients of every micro-batch, in order, from those that this process has `found`.

        Raises CharlmError when a process does not answer.
        """
        rows = torch.stack([torch.cat([loss.view(1), *(g.flatten() for g in gradients)]) for loss, gradients in found])
        every = [torch.empty_like(rows) for _ in range(size())]
        with _reported():
            require_launcher()
            dist.all_gather(every, rows)
        shapes = [torch.Size(), *(gradient.shape for gradient in found[0][1])]
        splits = (row.split([shape.numel() for shape in shapes]) for row in torch.cat(every))
        tensors = ([part.view(shape) for part, shape in zip(split, shapes, strict=True)] for split in splits)
        return [(loss, gradients) for loss, *gradients in tensors]

    def add(self, numbers: Tensor) -> None:
        """Add to `numbers` those of all other processes, in place and in any order.

        Raises CharlmError when a process does not answer.
        """
        self._reduce(numbers, dist.ReduceOp.SUM)

    def largest(self, number: Tensor) -> None:
        """Put the largest of all processes into `number`; raises as `add`."""
        self._reduce(number, dist.ReduceOp.MAX)

    def _reduce(self, numbers: Tensor, by: dist.ReduceOp.RedOpType) -> None:
        with _reported():
            require_launcher()
            dist.all_reduce(numbers, by)


@contextmanager
def joined(device: torch.device, agreed: Callable[[], Mapping[str, str]]) -> Iterator[Processes | None]:
    """The connected processes of this training run, which computes on `device`; None without a launcher.

    `agreed` maps what must be the same in all of them, in a person's words, to its value. Raises CharlmError when they
    do not all start, or do not agree. A block that raises just leaves: its connections break when the process ends.
    """
    if not launched():
        yield None
        return
    _take_device(device)
    with _reported():
        launcher, _, _ = next(dist.rendezvous("env://", timeout=START_TIMEOUT))
        # Values stored before a restart (torchrun --max-restarts) are still there.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], launcher)
        _agree(store, agreed())
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank(), world_size=size(), timeout=TIMEOUT)
    yield Processes()
    dist.destroy_process_group()


def _take_device(device: torch.device) -> None:
    """Take this process's own `device`; raise CharlmError when this host has too few for its processes."""
    here, devices = int(os.environ["LOCAL_WORLD_SIZE"]), {"cuda": torch.cuda.device_count(), "mps": 0}
    if here > (count := devices.get(device.type, here)):
        raise CharlmError(
            f"train.device={device.type}: torchrun has started {here} processes on this host.",
            f"Expected at most {count}, one for each such device that can train with others.",
            f"{f'Start {count} at most' if count else f'Unset {LAUNCHER}'}, or train with train.device=cpu.",
        )
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def _agree(store: dist.Store, agreed: Mapping[str, str]) -> None:
    """Wait for all processes, in Python, as PyTorch's own waiting hears no signal; CharlmError if they differ."""
    names = [f"agreed/{number}" for number in range(size())]
    store.set(names[rank()], json.dumps(agreed))
    end = time.monotonic() + START_TIMEOUT.total_seconds()
    while missing := [str(number) for number, name in enumerate(names) if not store.check([name])]:
        require_launcher()
        if time.monotonic() > end:
            raise RuntimeError(f"process {', '.join(missing)} did not start within {START_TIMEOUT}")
        time.sleep(0.05)
    first, *others = (json.loads(store.get(name)) for name in names)
    differ = {
        what: [str(number) for number, other in enumerate(others, start=1) if other.get(what) != value]
        for what, value in first.items()
    }
    if lines := [f"{what}: process {', '.join(numbers)}" for what, numbers in differ.items() if numbers]:
        raise CharlmError(
            f"The processes would not train the same model. They differ from process 0 in:{indented(lines)}",
            fix="Bring the hosts to the same commit, params.yaml, packages and prepared text, then train again.",
        )


@contextmanager
def _reported() -> Iterator[None]:
    """Turn what PyTorch raises when the others do not answer into CharlmError."""
    try:
        yield
    except RuntimeError as err:
        raise lost(str(err).splitlines()[0].rstrip(".")) from err
