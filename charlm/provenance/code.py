"""The code that a result comes from, as a run records it: commit, patch, DVC experiment."""

import getpass
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from charlm.errors import CharlmError
from charlm.provenance.environment import Environment

ENVIRONMENT, PATCH = "environment.json", "patch.diff"
COMMIT_TAG = "mlflow.source.git.commit"
EXPERIMENT_TAG = "charlm.dvc_experiment"
SWEEP_TAG = "charlm.sweep"
# DVC writes these while a stage runs, or the run has them as files: they are not code.
_NOT_CODE = (":!dvc.lock", ":!data", ":!params.yaml")


@dataclass(frozen=True)
class Origin:
    """The code in `folder`, and the name of the DVC `experiment` that runs it, if any."""

    folder: Path
    experiment: str | None

    @classmethod
    def here(cls) -> Self:
        """The origin of what this process computes. Raises CharlmError if git refuses to read the repository here."""
        _require_git(Path.cwd())
        return cls(Path(), os.environ.get("DVC_EXP_NAME"))

    def tags(self) -> dict[str, str]:
        """The tags of a run; unknown facts are left out."""
        commit = _git(self.folder, "rev-parse", "HEAD")
        changed = _git(self.folder, "status", "--porcelain", "--", ".", *_NOT_CODE[:2])
        grid = re.fullmatch(r"(.+)-\d+", self.experiment or "")  # DVC numbers a grid's experiments: rates-1, rates-2
        found = {
            "mlflow.user": None,
            COMMIT_TAG: commit.decode().strip() if commit else None,
            "charlm.git_dirty": str(bool(changed)).lower() if commit else None,
            EXPERIMENT_TAG: self.experiment,
            SWEEP_TAG: grid[1] if grid else None,
        }
        with suppress(KeyError, OSError):  # a container's bare user id has no name
            found["mlflow.user"] = getpass.getuser()
        return {key: value for key, value in found.items() if value is not None}

    def files(self) -> dict[str, bytes]:
        """The environment of this process and the patch, by artifact name."""
        return {ENVIRONMENT: Environment.here().to_json().encode(), PATCH: patch(self.folder)}


def patch(project: Path) -> bytes:
    """The difference between the last commit and the code of `project`: changed and added files, new code.

    New files count in charlm/ and stages/. Data, dvc.lock and params.yaml are left out. The patch is empty for a clean
    tree and outside git. It has the form of git's defaults, whatever the user's settings.
    """
    index = _git(project, "rev-parse", "--git-path", "index")
    if index is None or _git(project, "rev-parse", "HEAD") is None:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        copy = {"GIT_INDEX_FILE": str(shutil.copy(project / os.fsdecode(index).strip(), folder))}
        _git(project, "add", "--update", **copy)
        for code in ("charlm", "stages"):
            _git(project, "add", "--", code, **copy)
        plain = ("--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
        return _git(project, "diff-index", "--cached", "-p", *plain, "HEAD", "--", ".", *_NOT_CODE, **copy) or b""


def _require_git(folder: Path) -> None:
    """Raise CharlmError if `folder` is in a repository that git does not read: of another owner, for example."""
    if not any((place / ".git").exists() for place in (folder, *folder.parents)):
        return
    try:
        done = subprocess.run(["git", "rev-parse", "--git-dir"], cwd=folder, capture_output=True, check=False)
        problem = os.fsdecode(done.stderr).strip() if done.returncode else ""
    except OSError as err:
        problem = f"git cannot be run: {err}"
    if problem:
        raise CharlmError(
            f"The commit and the patch of this run cannot be recorded, so that it could not be reproduced.\n{problem}",
            fix="Fix that, then run again. CHARLM_TRACKING=off goes on without a record.",
        )


def _git(folder: Path, *arguments: str, **environment: str) -> bytes | None:
    """The output of git in `folder`; None if git fails: not installed, no repository, no commit."""
    settings = os.environ | environment
    try:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True, env=settings).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
