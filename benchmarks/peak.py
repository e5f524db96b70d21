"""Run a command; print as JSON its exit code, its seconds and the peak of its resident memory in bytes.

It is a small process, because Linux starts the peak of a new process at what its parent uses.
"""

import json
import os
import sys
import time


def watching(*command: str) -> list[str]:
    """The command that runs `command` through this file."""
    return [sys.executable, "-I", "-S", __file__, *command]


def main() -> None:
    """Run the command in the arguments."""
    start = time.perf_counter()
    child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    _, status, usage = os.wait4(child, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    found = (os.waitstatus_to_exitcode(status), time.perf_counter() - start, usage.ru_maxrss * unit)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
