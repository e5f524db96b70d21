"""A training run shared by several processes: each computes whole micro-batches.

PyTorch's launcher, torchrun, starts them; without it there is one process, and torch.distributed is not used.
An all-reduce adds gradients in an order that depends on the number of processes, and so would the last bits of the
weights. In `exact` their sums are exact and an all-reduce is right; in other precisions gradients are gathered instead,
and every process adds them in the order of the micro-batches.
"""

import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from charlm.errors import CharlmError, indented

LAUNCHER = "CHARLM_LAUNCHER"
TIMEOUT = timedelta(seconds=30)
"""How long a process waits for another in an iteration, which takes milliseconds. PyTorch's own 30 minutes would hide a
cut network; a few seconds would end a training run on a machine that stalls."""
START_TIMEOUT = timedelta(minutes=5)
"""How long it waits for the others to start: one may read the text from a slow disk or query a distant server."""
_RELAUNCHED = "CHARLM_RELAUNCHED"
_PARENT = os.getppid()  # the launcher, until it ends

T = TypeVar("T")


def launched() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """The number of this process among those of all hosts; process 0, or the only one, writes and tracks."""
    return int(os.environ["RANK"]) if launched() else 0


def local_rank() -> int:
    """The number of this process among those of its host."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def size() -> int:
    """The number of processes on all hosts."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def require_even_shares(micro_batches: int) -> None:
    """Raise CharlmError unless the processes can share the `micro_batches` of an iteration evenly."""
    if micro_batches % size():
        raise CharlmError(
            f"{size()} processes cannot share train.gradient_accumulation_steps={micro_batches} evenly.",
            f"Each computes whole micro-batches: expected a multiple of {size()}.",
            "Change train.gradient_accumulation_steps, and train.batch_size to keep their product, or start another "
            "number of processes.",
        )


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
            _require_launcher()
            dist.all_gather(every, rows)
        shapes = [torch.Size(), *(gradient.shape for gradient in found[0][1])]
        splits = (row.split([shape.numel() for shape in shapes]) for row in torch.cat(every))
        tensors = ([part.view(shape) for part, shape in zip(split, shapes, strict=True)] for split in splits)
        return [(loss, gradients) for loss, *gradients in tensors]

    def add(self, numbers: Tensor) -> None:
        """Add to `numbers` those of all other processes, in place and in any order.

        Raises CharlmError when a process does not answer.
        """
        with _reported():
            _require_launcher()
            dist.all_reduce(numbers)


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
        _require_launcher()
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
            f"The processes are not about to train the same. These differ from process 0:{indented(lines)}",
            fix="Bring the hosts to the same commit, params.yaml, packages and prepared text, then train again.",
        )


def _require_launcher() -> None:
    """Raise RuntimeError once the launcher has ended: nobody else would end this process when another fails."""
    if os.getppid() != _PARENT:
        raise RuntimeError("the launcher has ended")


@contextmanager
def _reported() -> Iterator[None]:
    """Turn what PyTorch raises when the others do not answer into CharlmError."""
    try:
        yield
    except RuntimeError as err:
        raise _lost(str(err).splitlines()[0].rstrip(".")) from err


def _lost(problem: str) -> CharlmError:
    return CharlmError(
        f"Process {rank()} of {size()} has lost another one: {problem}.",
        fix="If another process failed, its error is beside this one. If none did, check the address and the port "
        "given to the launcher, and the network interface in GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME "
        "(`ip -brief address` lists those of a host). Then train again.",
    )


def terminated(_signal: int, _frame: object) -> None:
    """Handle SIGTERM: an interrupt, or CharlmError when the launcher sent it because another process has failed.

    torchrun removes a failed process before it ends the others. When it is itself terminated, it first signals all of
    its processes, then waits for them by rank, so that process 0 still sees all.
    """
    if launched():
        import psutil

        if len(psutil.Process(_PARENT).children()) < int(os.environ["LOCAL_WORLD_SIZE"]):
            raise _lost("the launcher ends this process because another has failed")
    raise KeyboardInterrupt


def relaunch(module: str, arguments: Sequence[str]) -> None:
    """Become the command in CHARLM_LAUNCHER, run on `module`, unless it is unset or has started this process.

    The process stays the same, so a signal to the training run reaches the launcher, which passes it on. Raises
    CharlmError when there is no such command, or it is not torchrun.
    """
    launcher = os.environ.get(LAUNCHER, "")
    if launched() or not launcher.strip():
        return
    fix = 'Set it to a command such as "torchrun --nproc-per-node 2", or unset it to train in one process.'
    if _RELAUNCHED in os.environ:
        raise CharlmError(f"{LAUNCHER}={launcher}: it is not torchrun, whose variables number the processes.", fix=fix)
    own = {_RELAUNCHED: "1", "OMP_NUM_THREADS": "1"}  # as without a launcher; torchrun sets it with a warning
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        own["PET_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGQUIT"  # torchrun would undo nohup
    try:
        program, *options = shlex.split(launcher)
        os.execvpe(program, [program, *options, "-m", module, *arguments], own | os.environ)  # noqa: S606 no shell
    except (OSError, ValueError) as err:
        raise CharlmError(f"{LAUNCHER}={launcher}: {getattr(err, 'strerror', None) or err}.", fix=fix) from err
