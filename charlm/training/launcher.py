"""PyTorch's launcher, torchrun: which process this is among those that it has started, and how it is started.

It needs no PyTorch: a training run decides all this before it imports it.
"""

import os
import shlex
import signal
from collections.abc import Sequence

from charlm.errors import CharlmError

LAUNCHER = "CHARLM_LAUNCHER"
_RELAUNCHED = "CHARLM_RELAUNCHED"
_PARENT = os.getppid()  # the launcher, until it ends


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


def require_launcher() -> None:
    """Raise RuntimeError once the launcher has ended: nobody else would end this process when another fails."""
    if os.getppid() != _PARENT:
        raise RuntimeError("the launcher has ended")


def lost(problem: str) -> CharlmError:
    """The error of a process that goes on no more because of another one's `problem`."""
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
            raise lost("the launcher ends this process because another has failed")
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
        raise CharlmError(
            f"{LAUNCHER}={launcher}: it did not set the variables by which torchrun numbers its processes.", fix=fix
        )
    own = {_RELAUNCHED: "1", "OMP_NUM_THREADS": "1"}  # as without a launcher; torchrun sets it with a warning
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        own["PET_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGQUIT"  # torchrun would undo nohup
    try:
        program, *options = shlex.split(launcher)
        os.execvpe(program, [program, *options, "-m", module, *arguments], own | os.environ)  # noqa: S606 no shell
    except (OSError, ValueError) as err:
        raise CharlmError(f"{LAUNCHER}={launcher}: {getattr(err, 'strerror', None) or err}.", fix=fix) from err
