"""A training that several processes share: which of them this one is, its rows of a batch, a sum that all add to.

The processes are those of PyTorch's launcher, torchrun; without it there is one, and torch.distributed stays
unused. The sum is no all-reduce: that adds in an order which depends on the number of processes, and so do its last
bits. Here each process in turn adds its terms to what those before it left, so the order is that of one process, and
the bits are the same by construction. It knows neither the model nor what is added.
"""

import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from charlm.errors import CharlmError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LAUNCHER = "CHARLM_LAUNCHER"
TIMEOUT = timedelta(seconds=30)
"""How long a process waits for another within an iteration, which takes milliseconds: PyTorch's own 30 minutes would
hide a network that is cut, a few seconds would end a training on a machine that stalls."""
START_TIMEOUT = timedelta(minutes=5)
"""How long it waits for the others to join: one imports MLflow from a cold disk and asks a server far away."""

_TELLING_TIME = 60.0  # seconds that the first process has to fail with what all have; closing its run can take 30


class LauncherError(CharlmError):
    """The launcher that the environment names cannot be started."""

    def __init__(self, launcher: str, problem: str) -> None:
        super().__init__(
            f"{LAUNCHER}={launcher}: {problem}.\n"
            'Set it to a command such as "torchrun --nproc-per-node 2", or unset it to train in one process.'
        )


class LostProcessError(CharlmError):
    """Another process of the training is gone, or cannot be reached."""

    def __init__(self, rank: int, size: int, problem: str) -> None:
        super().__init__(
            f"Process {rank} of {size} lost another one: {problem}; nothing was saved.\n"
            "If a process failed, its own error stands beside this one; if none did, look at the network between the "
            "hosts. Then train again."
        )


class SharedDeviceError(CharlmError):
    """There are more processes on this host than devices for them."""

    def __init__(self, device: str, processes: int, devices: int) -> None:
        super().__init__(
            f"train.device={device}: torchrun has started {processes} processes here, and there are {devices} such "
            "devices that can train together.\nStart no more processes than that, or train with train.device=cpu."
        )


class Processes(Protocol):
    """The processes of a training, seen from one of them."""

    rank: int
    size: int

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch (B, ...): consecutive, in the order of the ranks, none when B is too small."""

    def in_turn(self, total: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
        """`total` after `add` of every process, rank 0 first; the same bits in all. All call it with the same total."""


class Alone:
    """The one process of a training without a launcher."""

    rank, size = 0, 1

    def share(self, rows: Tensor) -> Tensor:
        """All of them."""
        return rows

    def in_turn(self, total: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
        """What `add` makes of `total`."""
        return add(total)


class _Launched:
    """One of the processes that torchrun has started."""

    def __init__(self, device: torch.device) -> None:
        import torch.distributed as dist

        self._dist = dist
        self._launcher = os.getppid()
        self.rank, self.size = rank(), int(os.environ["WORLD_SIZE"])
        if device.type == "cuda":
            torch.cuda.set_device(local_rank())
        with self._telling():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=START_TIMEOUT)
            self._group: ProcessGroup = dist.new_group(timeout=TIMEOUT)

    def share(self, rows: Tensor) -> Tensor:
        return rows.tensor_split(self.size)[self.rank]

    def in_turn(self, total: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
        self._require_launcher()
        last = self.size - 1
        with self._telling():
            if self.rank > 0:
                self._dist.recv(total, self.rank - 1, group=self._group)
        total = add(total)
        with self._telling():
            if self.rank < last:
                self._dist.send(total, self.rank + 1, group=self._group)
            self._dist.broadcast(total, last, group=self._group)
        return total

    def leave(self) -> None:
        """Wait until every process has come to its good end: what another still writes can fail."""
        with self._telling():
            self._dist.barrier(group=self._group)
        self._dist.destroy_process_group()

    def _require_launcher(self) -> None:
        """Without its launcher nobody would end this process when another fails."""
        if os.getppid() != self._launcher:
            raise LostProcessError(self.rank, self.size, "the launcher has ended")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn what PyTorch raises when the others do not answer into LostProcessError."""
        try:
            yield
        except RuntimeError as err:
            raise LostProcessError(self.rank, self.size, str(err).split("\n")[0].rstrip(".")) from err


def launched() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Which of the processes on all hosts this one is: 0, without a launcher too, is the one that writes and tracks."""
    return int(os.environ["RANK"]) if launched() else 0


def local_rank() -> int:
    """Which of the processes on this host this one is; 0 without a launcher."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def terminated(_signal: int, _frame: object) -> None:
    """A handler of SIGTERM: an interrupt, or LostProcessError when it comes as another process on this host failed.

    torchrun sends the same signal for both, but has seen by then that a process which failed is gone; a terminated
    torchrun first signals all of its processes, then waits for them in their order, this one first.
    """
    if launched():
        import psutil

        if len(psutil.Process(os.getppid()).children()) < int(os.environ["LOCAL_WORLD_SIZE"]):
            raise LostProcessError(rank(), int(os.environ["WORLD_SIZE"]), "a process on this host has failed")
    raise KeyboardInterrupt


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes of this training, which computes on `device`: joined before the block, left after its good end.

    A block that raises leaves without a word: to the others the connection breaks when this process ends.
    """
    if not launched():
        yield Alone()
        return
    _require_devices(device)
    processes = _Launched(device)
    yield processes
    processes.leave()


def _require_devices(device: torch.device) -> None:
    """Raise SharedDeviceError when the processes on this host cannot have a `device` each."""
    here, devices = int(os.environ["LOCAL_WORLD_SIZE"]), {"cuda": torch.cuda.device_count(), "mps": 0}
    if here > devices.get(device.type, here):
        raise SharedDeviceError(device.type, here, devices[device.type])


@contextmanager
def told_once() -> Iterator[None]:
    """Leave an error that every process has to the first one on each host to tell.

    The others wait with it until the launcher, which sees that one fail, ends them; one that nobody ends was
    the only one to have it, and tells it.
    """
    launcher = os.getppid()
    try:
        yield
    except CharlmError:
        if local_rank():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # with which the launcher ends it
            end = time.monotonic() + _TELLING_TIME
            while os.getppid() == launcher and time.monotonic() < end:
                time.sleep(0.1)
        raise


def relaunch(module: str, arguments: Sequence[str]) -> None:
    """Become CHARLM_LAUNCHER's command on `module`, if it is set; LauncherError when there is no such command.

    As the same process, so that a signal meant for the training reaches the launcher, which hands it on.
    """
    launcher = os.environ.pop(LAUNCHER, "")
    try:
        command = shlex.split(launcher)
        if command:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # as it would be without; torchrun sets it with a warning
            os.execvp(command[0], [*command, "-m", module, *arguments])  # noqa: S606 there is no shell to want
    except (OSError, ValueError) as err:
        raise LauncherError(launcher, getattr(err, "strerror", None) or str(err)) from err
