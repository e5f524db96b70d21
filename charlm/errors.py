"""The base of every error that charlm raises for its users.

It is a `click.ClickException`, so a stage or the command line shows the text alone, without a traceback,
and exits with `exit_code`. Faults of the code itself are plain assertions and stay tracebacks.
"""

from collections.abc import Iterable

import click


class CharlmError(click.ClickException):
    """Something that the user can put right: what was `found` and where, what was `expected`, what `fix` to make.

    A subclass exists where code catches it, or where its exit code differs.
    """

    def __init__(self, found: str, expected: str = "", fix: str = "") -> None:
        self.found = found
        super().__init__("\n".join(line for line in (found, expected, fix) if line))


class RefusedError(CharlmError):
    """A source, or one address of it, gives no text; the message is the reason alone, to be listed beside its name."""


def indented(lines: Iterable[str]) -> str:
    """`lines`, one per line, indented, for the list in a message."""
    return "".join(f"\n  {line}" for line in lines)
