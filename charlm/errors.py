"""The base of every error that charlm raises for its users.

It is a `click.ClickException`, so a stage or the command line shows the text alone, without a traceback,
and exits with `exit_code`. Faults of the code itself are plain assertions and stay tracebacks.
"""

import io
import re
import sys
from collections.abc import Iterable

import click

TOKEN = re.compile(
    r"([?&](?:access_token|api_?key|auth_token|passw(?:or)?d|private_token|secret|sig|signature|token"
    r"|x-amz-(?:credential|security-token|signature)|x-goog-(?:credential|signature))=)(?!\.\.\.)[^&#\s'\"]+",
    re.IGNORECASE,
)
"""A name in the query of an address whose value is a credential, and that value."""
_USER = re.compile(r"(?<=://)(?:[^\s'\"/@]*:[^\s'\"]*|[^\s'\"/]*)@")


class CharlmError(click.ClickException):
    """Something that the user can put right: what was `found` and where, what was `expected`, what `fix` to make.

    A subclass exists where code catches it, or where its exit code differs.
    """

    def __init__(self, found: str, expected: str = "", fix: str = "") -> None:
        self.found = without_password(found)
        super().__init__(without_password("\n".join(line for line in (found, expected, fix) if line)))


class RefusedError(CharlmError):
    """A source, or one address of it, gives no text; the message is the reason alone, to be listed beside its name."""


def indented(lines: Iterable[str]) -> str:
    """`lines`, one per line, indented, for the list in a message."""
    return "".join(f"\n  {line}" for line in lines)


def without_password(text: str) -> str:
    """`text` without the user and password of any address in it, and with `...` for tokens in a query."""
    return TOKEN.sub(r"\1...", _USER.sub("", text))


def escape_on_stdout() -> None:
    r"""Let stdout show a character that its encoding lacks as an escape (`\u201c`), as stderr does, not raise."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
