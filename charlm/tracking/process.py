"""Which process a run belongs to, as a tag says it, and whether that process has ended."""

import platform
from pathlib import Path

import psutil


def process() -> str:
    """This process among all on all machines: machine, process id, time of its start."""
    me = psutil.Process()
    return f"{_machine()} {me.pid} {_started(me)}"


def has_ended(process: str) -> bool:
    """Whether `process` is one of this machine and has ended."""
    machine, _, rest = process.partition(" ")
    if machine != _machine() or not rest:
        return False
    pid, started = rest.split()
    try:
        return _started(psutil.Process(int(pid))) != started
    except psutil.NoSuchProcess:
        return True


def _machine() -> str:
    """Its name, and systemd's id of it where there is one: names alone are often the same."""
    identity = Path("/etc/machine-id")
    return platform.node() + (f"/{identity.read_text().strip()[:12]}" if identity.is_file() else "")


def _started(process: psutil.Process) -> str:
    """Seconds from the machine's start to the process's: a clock correction changes both times."""
    return f"{process.create_time() - psutil.boot_time():.2f}"
