"""A training that several processes share: which of them this one is, its rows of a batch, a sum that all add to.

The processes are those of PyTorch's launcher, torchrun; without it there is one, and torch.distributed stays
unused. The sum is no all-reduce: that adds in an order which depends on the number of processes, and so do its last
bits. Here each process in turn adds its terms to what those before it left, so the order is that of one process, and
the bits are the same by construction. It knows neither the model nor what is added.
"""

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from charlm.errors import CharlmError

if TYPE_CHECKING:
    from torch.distributed import Store

LAUNCHER = "CHARLM_LAUNCHER"
TIMEOUT = timedelta(seconds=30)
"""How long a process waits for another within an iteration, which takes milliseconds: PyTorch's own 30 minutes would
hide a network that is cut, a few seconds would end a training on a machine that stalls."""
START_TIMEOUT = timedelta(minutes=5)
"""How long it waits for the others to come: one reads the whole text from a slow disk, or asks a server far away."""

_TELLING_TIME = 10.0  # seconds that the first process has to fail with what all have; the others wait TIMEOUT for it
_RELAUNCHED = "CHARLM_RELAUNCHED"


class LauncherError(CharlmError):
    """The launcher that the environment names cannot be started."""

    def __init__(self, launcher: str, problem: str) -> None:
        super().__init__(
            f"{LAUNCHER}={launcher}: {problem}.\n"
            'Set it to a command such as "torchrun --nproc-per-node 2", or unset it to train in one process.'
        )


class JoinError(CharlmError):
    """This process does not reach the others."""

    def __init__(self, rank: int, size: int, problem: str) -> None:
        super().__init__(
            f"Process {rank} of {size} cannot join the others: {problem}.\n"
            "Look at the address and the port that the launcher was given, and at the network interface that "
            "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names: `ip -brief address` lists those of a host."
        )


class UnlikeProcessesError(CharlmError):
    """What the processes are about to train is not the same."""

    def __init__(self, unlike: Mapping[str, Sequence[int]]) -> None:
        listed = "\n".join(f"  {what}: process {', '.join(map(str, ranks))}" for what, ranks in unlike.items())
        super().__init__(
            f"The processes are not about to train the same. Other than in process 0:\n{listed}\n"
            "Bring the hosts to the same commit, params.yaml, packages and prepared text, then train again."
        )


class LostProcessError(CharlmError):
    """Another process of the training is gone, or cannot be reached."""

    def __init__(self, rank: int, size: int, problem: str) -> None:
        super().__init__(
            f"Process {rank} of {size} lost another one: {problem}; DVC records no result.\n"
            "If a process failed, its own error stands beside this one; if none did, look at the network between the "
            "hosts. Then train again."
        )


class SharedDeviceError(CharlmError):
    """There are more processes on this host than devices for them."""

    def __init__(self, device: str, processes: int, devices: int) -> None:
        super().__init__(
            f"train.device={device}: torchrun has started {processes} processes here, and {devices} such devices can "
            f"train together.\n{f'Start {devices} at most' if devices else 'Unset CHARLM_LAUNCHER'}, "
            "or train with train.device=cpu."
        )


class Processes:
    """The processes that torchrun has started, seen from one of them, which computes on `device`.

    They meet when the first sum is due: before that, one may read a long text for longer than another. `agreed`, by
    what a person calls it, must be the same in all, or their result would be nobody's.
    """

    def __init__(self, device: torch.device, agreed: Mapping[str, str]) -> None:
        self.rank, self.size = rank(), int(os.environ["WORLD_SIZE"])
        self._backend = "nccl" if device.type == "cuda" else "gloo"
        self._agreed = agreed
        if device.type == "cuda":
            torch.cuda.set_device(local_rank())

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch (B, ...): consecutive, in the order of the ranks, none when B is too small."""
        return rows.tensor_split(self.size)[self.rank]

    def in_turn(self, total: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
        """`total` after `add` of every process, rank 0 first; the same bits in all. All call it with the same total.

        Raises JoinError and UnlikeProcessesError the first time, LostProcessError every time.
        """
        import torch.distributed as dist

        if not dist.is_initialized():
            self._join()
        self._require_launcher()
        last = self.size - 1
        with self._telling(LostProcessError):
            if self.rank > 0:
                dist.recv(total, self.rank - 1)
        total = add(total)
        with self._telling(LostProcessError):
            if self.rank < last:
                dist.send(total, self.rank + 1)
            dist.broadcast(total, last)
        return total

    def leave(self) -> None:
        """Wait until every process has come to its good end: what another still writes can fail."""
        import torch.distributed as dist

        with self._telling(LostProcessError):
            dist.barrier()
        dist.destroy_process_group()

    def _join(self) -> None:
        import torch.distributed as dist

        with self._telling(JoinError):
            agents, _, _ = next(dist.rendezvous("env://", timeout=START_TIMEOUT))
            # A launcher that starts all anew after a failure keeps what they have told before.
            store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], agents)
            self._meet(store)
            dist.init_process_group(self._backend, store=store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)

    def _meet(self, store: "Store") -> None:
        """Wait for all of them, here, where a signal is heard, which PyTorch's own waiting is deaf to; then compare."""
        names = [f"agreed/{rank}" for rank in range(self.size)]
        store.set(names[self.rank], json.dumps(self._agreed))
        end = time.monotonic() + START_TIMEOUT.total_seconds()
        while not store.check(names):
            self._require_launcher()
            if time.monotonic() > end:
                missing = ", ".join(str(number) for number, name in enumerate(names) if not store.check([name]))
                waited = f"{START_TIMEOUT.total_seconds():.0f} s"
                raise JoinError(self.rank, self.size, f"process {missing} did not come within {waited}")
            time.sleep(0.05)
        first, *others = (json.loads(store.get(name)) for name in names)
        unlike = {
            what: [number for number, other in enumerate(others, start=1) if other.get(what) != value]
            for what, value in first.items()
        }
        if any(unlike.values()):
            raise UnlikeProcessesError({what: ranks for what, ranks in unlike.items() if ranks})

    def _require_launcher(self) -> None:
        """Without its launcher nobody would end this process when another fails."""
        if os.getppid() != _launcher():
            raise LostProcessError(self.rank, self.size, "the launcher has ended")

    @contextmanager
    def _telling(self, error: type[JoinError | LostProcessError]) -> Iterator[None]:
        """Turn what PyTorch raises when the others do not answer into `error`, without its place in PyTorch."""
        try:
            yield
        except RuntimeError as err:
            problem, *_ = re.sub(r"^\[[^]]*\]:? ?", "", str(err)).partition("\n")[0].partition(". ")
            raise error(self.rank, self.size, problem.rstrip(".")) from err


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
def shared(device: torch.device, agreed: Callable[[], Mapping[str, str]]) -> Iterator[Processes | None]:
    """The processes of this training, which computes on `device` and has `agreed` in common; None without a launcher.

    A block that raises leaves without a word: to the others the connection breaks when this process ends.
    """
    if not launched():
        yield None
        return
    _require_devices(device)
    processes = Processes(device, agreed())
    yield processes
    processes.leave()


def _require_devices(device: torch.device) -> None:
    """Raise SharedDeviceError when the processes on this host cannot have a `device` each."""
    here, devices = int(os.environ["LOCAL_WORLD_SIZE"]), {"cuda": torch.cuda.device_count(), "mps": 0}
    if here > devices.get(device.type, here):
        raise SharedDeviceError(device.type, here, devices[device.type])


@cache
def _launcher() -> int:
    """The process that started this one, as it was when first asked for: another one adopts this one if it ends."""
    return os.getppid()


@contextmanager
def told_once() -> Iterator[None]:
    """Leave an error that every process has to the first one on each host to tell.

    The others wait with it until the launcher, which sees that one fail, ends them; one that nobody ends in time
    was the only one to have it, and tells it.
    """
    launcher = _launcher()
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
    """Become CHARLM_LAUNCHER's command on `module`, if it is set and has not started this process already.

    As the same process, so that a signal meant for the training reaches the launcher, which hands it on. Raises
    LauncherError when there is no such command, or when it is none of PyTorch's.
    """
    launcher = os.environ.get(LAUNCHER, "")
    if launched() or not launcher.strip():
        return
    if _RELAUNCHED in os.environ:
        raise LauncherError(launcher, "it is not torchrun, whose variables tell the processes apart")
    own = {_RELAUNCHED: "1", "OMP_NUM_THREADS": "1"}  # as without a launcher; torchrun sets it with a warning
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        own["PET_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGQUIT"  # torchrun would undo nohup
    try:
        program, *options = shlex.split(launcher)
        os.execvpe(program, [program, *options, "-m", module, *arguments], own | os.environ)  # noqa: S606 no shell
    except (OSError, ValueError) as err:
        raise LauncherError(launcher, getattr(err, "strerror", None) or str(err)) from err
