"""The code that a stage runs, held against a change of it while the stage runs.

DVC digests a stage's code when the stage has ended: edited in between, the new code would stand in dvc.lock as
what made a result that the old one made.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from charlm.errors import CharlmError
from charlm.files import sha256


class SourcesChangedError(CharlmError):
    """Code was edited while the stage that had loaded it ran."""

    def __init__(self, changed: list[str]) -> None:
        super().__init__(
            f"{', '.join(changed)} changed while this stage ran: its result is not what the code there now gives.\n"
            "Run `dvc repro` again; DVC has not recorded this one."
        )


def digests() -> dict[Path, str]:
    """SHA-256 of every file in charlm/ and stages/ of the current folder that a loaded module came from."""
    loaded = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    code = [file for folder in ("charlm", "stages") for file in loaded if file.is_relative_to(Path.cwd() / folder)]
    return {file: sha256(file) for file in code}


def require_unchanged(before: Mapping[Path, str]) -> None:
    """Raise SourcesChangedError when a file of `before` is another now, or gone."""
    changed = [file for file, digest in before.items() if not file.is_file() or sha256(file) != digest]
    if changed:
        raise SourcesChangedError(sorted(str(file.relative_to(Path.cwd())) for file in changed))
