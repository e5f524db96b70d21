"""Whose run it is."""

import subprocess
import sys

from charlm.tracking.process import has_ended, process


def test_process_that_ended_is_gone_and_one_of_another_machine_is_not_ours_to_judge() -> None:
    machine, pid, started = process().split()
    assert not has_ended(process())
    assert has_ended(f"{machine} {pid} {float(started) - 5:.2f}")  # its number now belongs to another process
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        ended = f"{machine} {child.pid} 1.00"
    assert has_ended(ended)
    assert not has_ended(f"elsewhere {pid} 1.00")
    assert not has_ended("")
