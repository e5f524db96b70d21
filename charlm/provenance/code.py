"""The code that a result comes from, as a run records it: commit, patch, DVC experiment."""

import getpass
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from charlm.config import project_root
from charlm.errors import CharlmError, without_password
from charlm.provenance.environment import Environment

ENVIRONMENT, PATCH = "environment.json", "patch.diff"
COMMIT_TAG = "mlflow.source.git.commit"
EXPERIMENT_TAG = "charlm.dvc_experiment"
# DVC writes these while a stage runs, or the run has them as files: they are not code.
_NOT_CODE = (":!dvc.lock", ":!data", ":!params.yaml")


@dataclass(frozen=True)
class Origin:
    """The code in `folder`, the name of the DVC `experiment` that runs it, if any, and the `home` of both.

    The home is the person's own repository where `folder` is a temporary clone of it.
    """

    folder: Path
    experiment: str | None
    home: Path | None = None

    @classmethod
    def here(cls) -> Self:
        """The origin of what this process computes. Raises CharlmError if git refuses to read the repository here."""
        _require_git(Path.cwd())
        home = None
        with suppress(CharlmError):
            home = project_root()
        return cls(Path(), os.environ.get("DVC_EXP_NAME") or _applied(Path()), home)

    @cached_property
    def patch(self) -> bytes:
        """The difference between the commit and the code in `folder`."""
        return patch(self.folder)

    def tags(self) -> dict[str, str]:
        """The tags of a run; unknown facts are left out."""
        commit = _git(self.folder, "rev-parse", "HEAD")
        branch = _git(self.folder, "symbolic-ref", "--short", "HEAD")  # fails for a detached one
        remote = _git(self.home or self.folder, "remote", "get-url", "origin")
        found = {
            "mlflow.user": None,
            COMMIT_TAG: commit.decode().strip() if commit else None,
            "mlflow.source.git.branch": os.fsdecode(branch).strip() if commit and branch else None,
            "mlflow.source.git.repoURL": without_password(os.fsdecode(remote).strip()) if remote else None,
            "charlm.git_dirty": str(bool(self.patch)).lower() if commit else None,
            EXPERIMENT_TAG: self.experiment,
        }
        with suppress(KeyError, OSError):  # a container's bare user id has no name
            found["mlflow.user"] = getpass.getuser()
        return {key: value for key, value in found.items() if value is not None}

    def files(self) -> dict[str, bytes]:
        """The environment of this process and the patch, by artifact name."""
        return {ENVIRONMENT: Environment.here().to_json().encode(), PATCH: self.patch}


def _applied(folder: Path) -> str | None:
    """The DVC experiment whose result and parameters are those in `folder`, as `dvc exp apply` leaves them."""
    files, found = ("dvc.lock", "params.yaml"), experiments(folder)
    own = _git(folder, "hash-object", *files)
    if not (found and own):
        return None
    names = "".join(f"{commit}:./{file}\n" for commit, _ in found for file in files)
    digests = _git(folder, "cat-file", "--batch-check=%(objectname)", stdin=names.encode()) or b""
    lines = digests.splitlines()
    pairs = [lines[start : start + len(files)] for start in range(0, len(lines), len(files))]
    return next((name for (_, name), pair in zip(found, pairs, strict=False) if pair == own.splitlines()), None)


def experiments(folder: Path) -> list[tuple[str, str]]:
    """Commit and name of every DVC experiment in the repository of `folder`."""
    refs = _git(folder, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or b""
    return re.findall(r"^(\w+) refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)$", os.fsdecode(refs), re.MULTILINE)


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
        _git(project, "add", "--update", environment=copy)
        for code in ("charlm", "stages"):
            _git(project, "add", "--", code, environment=copy)
        plain = ("--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
        return (
            _git(project, "diff-index", "--cached", "-p", *plain, "HEAD", "--", ".", *_NOT_CODE, environment=copy)
            or b""
        )


def is_edited(file: str) -> bool:
    """Whether `file` in the current folder differs from the last commit; False outside of git."""
    return bool(_git(Path(), "diff", "--name-only", "HEAD", "--", file))


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
            f"git cannot read the commit and the patch, without which this run cannot be reproduced.\n{problem}",
            fix="Fix that, then run again. CHARLM_TRACKING=off goes on without a record.",
        )


def _git(
    folder: Path, *arguments: str, stdin: bytes | None = None, environment: Mapping[str, str] | None = None
) -> bytes | None:
    """The output of git in `folder`; None if git fails: not installed, no repository, no commit."""
    settings = os.environ | dict(environment or {})
    try:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, check=True, env=settings).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
