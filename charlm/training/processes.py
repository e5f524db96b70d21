"""A training run that several processes share, one micro-batch as a whole by one of them.

The processes are those of PyTorch's launcher, torchrun; without it there is one, and torch.distributed stays unused.
Gradients are gathered, not reduced, and every process adds them in the order of the micro-batches: an all-reduce adds
in an order that depends on the number of processes, and so would the last bits.
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
from typing import TypeVar

import torch
from torch import Tensor

from charlm.errors import CharlmError, indented

LAUNCHER = "CHARLM_LAUNCHER"
TIMEOUT = timedelta(seconds=30)
"""How long a process waits for another within an iteration, which takes milliseconds: PyTorch's own 30 minutes would
hide a network that is cut, a few seconds would end training on a machine that stalls."""
START_TIMEOUT = timedelta(minutes=5)
"""How long it waits for the others to come: one reads the text from a slow disk, or asks a server far away."""
_RELAUNCHED = "CHARLM_RELAUNCHED"
_PARENT = os.getppid()  # the launcher; another process adopts this one if it ends

Found = tuple[Tensor, list[Tensor]]
"""The loss of a micro-batch, and its gradient by each parameter."""
T = TypeVar("T")


class Processes:
    """The processes that torchrun has started, seen from one of them, which computes on `device`.

    `agreed`, by what a person calls it, must be the same in all, or their result would be nobody's.
    Raises CharlmError when they do not divide the `micro_batches` of an iteration, do not come, or do not agree.
    """

    def __init__(self, device: torch.device, micro_batches: int, agreed: Mapping[str, str]) -> None:
        self.rank, self.size = rank(), int(os.environ["WORLD_SIZE"])
        if micro_batches % self.size:
            raise CharlmError(
                f"{self.size} processes cannot share train.gradient_accumulation_steps={micro_batches} evenly.",
                f"Each computes whole micro-batches: expected a multiple of {self.size}.",
                f"Set train.gradient_accumulation_steps to {self.size} and train.batch_size to fewer windows for a "
                "batch of the same size, or start another number of processes.",
            )
        _require_devices(device)
        self._join("nccl" if device.type == "cuda" else "gloo", agreed)

    def share(self, micro_batches: Sequence[T]) -> Sequence[T]:
        """Those of this process: consecutive, in the order of the ranks."""
        count = len(micro_batches) // self.size
        return micro_batches[self.rank * count : (self.rank + 1) * count]

    def gather(self, found: Sequence[Found]) -> list[Found]:
        """What all processes have `found`, in the order of the micro-batches; CharlmError when one does not answer."""
        import torch.distributed as dist

        self._require_launcher()
        rows = torch.stack([torch.cat([loss.view(1), *(g.flatten() for g in gradients)]) for loss, gradients in found])
        every = [torch.empty_like(rows) for _ in range(self.size)]
        with self._reported("lost another one"):
            dist.all_gather(every, rows)
        shapes = [gradient.shape for gradient in found[0][1]]
        sizes = [1, *(shape.numel() for shape in shapes)]
        split = [row.split(sizes) for row in torch.cat(every)]
        return [(loss[0], [g.view(shape) for g, shape in zip(gs, shapes, strict=True)]) for loss, *gs in split]

    def leave(self) -> None:
        """Wait until every process has come to its good end: what another still writes can fail."""
        import torch.distributed as dist

        with self._reported("lost another one"):
            dist.barrier()
        dist.destroy_process_group()

    def _join(self, backend: str, agreed: Mapping[str, str]) -> None:
        """Wait for all, here, where a signal is heard, to which PyTorch's own waiting is deaf; compare; connect."""
        import torch.distributed as dist

        with self._reported("cannot join the others"):
            agents, _, _ = next(dist.rendezvous("env://", timeout=START_TIMEOUT))
            # A launcher that starts all again after a failure keeps what they have stored before.
            store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], agents)
            names = [f"agreed/{number}" for number in range(self.size)]
            store.set(names[self.rank], json.dumps(agreed))
            self._await(lambda: [number for number, name in enumerate(names) if not store.check([name])])
            require_agreement([json.loads(store.get(name)) for name in names])
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)

    def _await(self, missing: Callable[[], list[int]]) -> None:
        """Return when no process is `missing`."""
        end = time.monotonic() + START_TIMEOUT.total_seconds()
        while absent := missing():
            self._require_launcher()
            if time.monotonic() > end:
                raise RuntimeError(f"process {', '.join(map(str, absent))} did not come within {START_TIMEOUT}")
            time.sleep(0.05)

    def _require_launcher(self) -> None:
        """Without its launcher nobody would end this process when another fails."""
        if os.getppid() != _PARENT:
            raise self._error("lost another one", "the launcher has ended")

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """Turn what PyTorch raises when the others do not answer into CharlmError, without its place in PyTorch."""
        try:
            yield
        except RuntimeError as err:
            problem, *_ = re.sub(r"^\[[^]]*\]:? ?", "", str(err)).partition("\n")[0].partition(". ")
            raise self._error(what, problem.rstrip(".")) from err

    def _error(self, what: str, problem: str) -> CharlmError:
        return CharlmError(
            f"Process {self.rank} of {self.size} {what}: {problem}.",
            fix="If another process failed, its error is beside this one. If none did, check the address and the port "
            "given to the launcher, and the network interface that GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names "
            "(`ip -brief address` lists those of a host). Then train again.",
        )


def require_agreement(agreed: Sequence[Mapping[str, str]]) -> None:
    """Raise CharlmError when what the processes are about to train, in the order of their ranks, is not the same."""
    differ = {
        what: [str(number) for number, other in enumerate(agreed) if other.get(what) != value]
        for what, value in agreed[0].items()
    }
    if lines := [f"{what}: process {', '.join(numbers)}" for what, numbers in differ.items() if numbers]:
        raise CharlmError(
            f"The processes are not about to train the same. These differ from process 0:{indented(lines)}",
            fix="Bring the hosts to the same commit, params.yaml, packages and prepared text, then train again.",
        )


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
    """A handler of SIGTERM: an interrupt, or CharlmError when it comes because another process on this host failed.

    torchrun sends the same signal for both, but has seen by then that a process which failed is gone; a terminated
    torchrun first signals all of its processes, then waits for them in their order, this one first.
    """
    if launched():
        import psutil

        if len(psutil.Process(os.getppid()).children()) < int(os.environ["LOCAL_WORLD_SIZE"]):
            raise CharlmError(f"Process {rank()} was ended by the launcher: another process on this host has failed.")
    raise KeyboardInterrupt


@contextmanager
def joined(device: torch.device, micro_batches: int, agreed: Mapping[str, str]) -> Iterator[Processes | None]:
    """The processes of this training run; None without a launcher. Arguments as for `Processes`.

    A block that raises leaves without a word: to the others the connection breaks when this process ends.
    """
    if not launched():
        yield None
        return
    processes = Processes(device, micro_batches, agreed)
    yield processes
    processes.leave()


def _require_devices(device: torch.device) -> None:
    """Raise CharlmError when the processes on this host cannot have a `device` each; else take this one's."""
    here, devices = int(os.environ["LOCAL_WORLD_SIZE"]), {"cuda": torch.cuda.device_count(), "mps": 0}
    if here > (count := devices.get(device.type, here)):
        raise CharlmError(
            f"train.device={device.type}: torchrun has started {here} processes here.",
            f"Of such devices, {count} can train together.",
            f"{f'Start {count} at most' if count else f'Unset {LAUNCHER}'}, or train with train.device=cpu.",
        )
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def relaunch(module: str, arguments: Sequence[str]) -> None:
    """Become CHARLM_LAUNCHER's command on `module`, if it is set and has not started this process already.

    As the same process, so that a signal meant for the training run reaches the launcher, which passes it on. Raises
    CharlmError when there is no such command, or when it is none of PyTorch's.
    """
    launcher = os.environ.get(LAUNCHER, "")
    if launched() or not launcher.strip():
        return
    fix = 'Set it to a command such as "torchrun --nproc-per-node 2", or unset it to train in one process.'
    if _RELAUNCHED in os.environ:
        raise CharlmError(f"{LAUNCHER}={launcher}: it is not torchrun, whose variables tell processes apart.", fix=fix)
    own = {_RELAUNCHED: "1", "OMP_NUM_THREADS": "1"}  # as without a launcher; torchrun sets it with a warning
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        own["PET_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGQUIT"  # torchrun would undo nohup
    try:
        program, *options = shlex.split(launcher)
        os.execvpe(program, [program, *options, "-m", module, *arguments], own | os.environ)  # noqa: S606 no shell
    except (OSError, ValueError) as err:
        raise CharlmError(f"{LAUNCHER}={launcher}: {getattr(err, 'strerror', None) or err}.", fix=fix) from err
