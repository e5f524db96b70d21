"""The base of every error that charlm raises for its users.

It is a `click.ClickException`, so a stage or the command line shows the text alone, without a traceback,
and exits with `exit_code`. Faults of the code itself are plain assertions and stay tracebacks.
"""

import click


class CharlmError(click.ClickException):
    """Something that the user can put right; each subclass builds its own message.

    The message says what was found, what was expected, where, and what to do next.
    """
