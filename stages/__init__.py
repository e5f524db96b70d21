"""The pipeline's stages: one thin command each, run by DVC as `python -m stages.<name>`.

A stage lives for seconds, in which Python's garbage collector would go through all that PyTorch or MLflow brings along,
hundreds of times while it is imported and again at the end: a fifth of the time of a stage, or a third with MLflow.
"""

import atexit
import functools
import gc
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from charlm.errors import CharlmError
from charlm.files import sha256

gc.set_threshold(10_000)  # new objects between two collections; Python's own is 700
atexit.register(gc.freeze)  # what is there at the end is not looked through once more

DECIDE_NOTHING = ("charlm/errors.py", "charlm/provenance", "charlm/tracking", "stages/__init__.py")
"""Code that decides no file of a stage: it words errors, looks at the machine, talks to MLflow, starts stages."""


def stage(body: Callable[..., None]) -> click.Command:
    """The command of a stage: its module's docstring is the help, the parameters of `body` are folders.

    DVC digests a stage's code when the stage has ended: edited in between, the new code would be in dvc.lock as what
    made a result that the old one made. So the command fails when code that it has loaded is not what was there before.
    """

    @functools.wraps(body)
    def run(**folders: Path) -> None:
        before = code_digests()
        try:
            body(**folders)
        except CharlmError as err:
            raise CharlmError(err.message, fix=_way_back()) from err
        require_unchanged(before)

    for name in reversed(inspect.signature(body).parameters):
        run = click.argument(name, type=click.Path(path_type=Path))(run)
    return click.command(help=sys.modules[body.__module__].__doc__)(run)


def _way_back() -> str:
    """For the end of an error: how to undo edits of params.yaml, if there are any; a temporary folder has none."""
    from charlm.config import PARAMS_FILE, project_root
    from charlm.provenance.code import is_edited

    if project_root().resolve() != Path.cwd() or not is_edited(PARAMS_FILE):
        return ""
    back = f"git checkout {PARAMS_FILE} && dvc repro"
    return f"{PARAMS_FILE} stays edited, also what -S wrote into it. To undo that: {back}"


def code_digests() -> dict[Path, str]:
    """SHA-256 of every file in charlm/ and stages/ of the current folder that decides results."""
    here = Path.cwd()
    code = [file for folder in ("charlm", "stages") for file in (here / folder).rglob("*.py")]
    return {file: sha256(file) for file in code if not str(file.relative_to(here)).startswith(DECIDE_NOTHING)}


def require_unchanged(before: Mapping[Path, str]) -> None:
    """Raise CharlmError when a file of `before` that is loaded has changed since, or is no longer there."""
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    code = {file: digest for file, digest in before.items() if str(file) in loaded}
    changed = [file for file, digest in code.items() if not file.is_file() or sha256(file) != digest]
    if changed:
        names = ", ".join(sorted(str(file.relative_to(Path.cwd())) for file in changed))
        raise CharlmError(
            f"{names} changed while this stage ran: its result is not what the code there gives now.",
            fix="Run `dvc repro` again; DVC has not recorded this one.",
        )
