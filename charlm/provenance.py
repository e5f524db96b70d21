"""Where a result comes from: the code, the packages and the machine, as a run's record keeps them."""

import getpass
import json
import os
import platform
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Self

ENVIRONMENT, PATCH = "environment.json", "patch.diff"
NAMES = {ENVIRONMENT, PATCH}
"""The artifacts that a record holds of them."""
COMMIT_TAG = "mlflow.source.git.commit"
# What DVC writes while a stage runs, and what a record keeps as a file of its own: not what a run was made from.
_NOT_CODE = (":!dvc.lock", ":!data", ":!params.yaml")


@dataclass(frozen=True)
class Environment:
    """What a result was computed with."""

    python: str
    platform: str
    cpu_capability: str
    """The widest instructions that PyTorch uses, one of DEFAULT, AVX2, AVX512 on x86."""
    threads: int
    packages: dict[str, str]
    """Version by name, of everything installed."""

    @classmethod
    def here(cls) -> Self:
        """That of this process."""
        import torch

        return cls(
            python=platform.python_version(),
            platform=platform.platform(),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            threads=torch.get_num_threads(),
            packages={d.name.lower(): d.version for d in sorted(distributions(), key=lambda d: d.name.lower())},
        )

    @classmethod
    def from_json(cls, content: str) -> Self:
        """What to_json wrote."""
        return cls(**json.loads(content))

    def to_json(self) -> str:
        """As JSON, a package a line."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def software_differences(self, other: Self) -> list[str]:
        """A line for Python and for each package, charlm itself left out, whose version is another in `other`.

        CPU and threads do not count: a result does not depend on them.
        """
        mine, others = ({"python": e.python} | e.packages for e in (self, other))
        return [
            f"{name}: {mine.get(name, 'not installed')} on record, {others.get(name, 'not installed')} here"
            for name in sorted(mine.keys() | others.keys())
            if name != "charlm" and mine.get(name) != others.get(name)
        ]

    def machine_differences(self, other: Self) -> list[str]:
        """A line for each of platform and CPU capability that is another in `other`; neither should decide a result."""
        mine, others = asdict(self), asdict(other)
        facts = [fact for fact in ("platform", "cpu_capability") if mine[fact] != others[fact]]
        return [f"{fact}: {mine[fact]} on record, {others[fact]} here" for fact in facts]


def tags() -> dict[str, str]:
    """What the code's origin is, by the names of MLflow's tags; a fact that is not known is left out."""
    commit = _git("rev-parse", "HEAD")
    found = {
        "mlflow.user": _user(),
        COMMIT_TAG: commit.strip() if commit else None,
        "charlm.git_dirty": str(bool(_git("status", "--porcelain", "--", ".", *_NOT_CODE[:2]))).lower()
        if commit
        else None,
        "charlm.dvc_experiment": experiment_name(),
    }
    return {key: value for key, value in found.items() if value is not None}


def patch() -> str:
    """What turns the last commit into the code here: tracked changes, and new files in charlm/ and stages/.

    The data, dvc.lock and params.yaml are not in it. Empty for a clean tree, and outside git.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        if _git("read-tree", "HEAD", **index) is None:
            return ""
        _git("add", "--update", **index)
        _git("add", "--", "charlm", "stages", **index)
        return _git("diff", "--cached", "--binary", "HEAD", "--", ".", *_NOT_CODE, **index) or ""


def _user() -> str | None:
    """The name of the user; None where the system knows none, as for a container's bare number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def experiment_name() -> str | None:
    """The name of the DVC experiment that this process runs in, or None outside of one."""
    return os.environ.get("DVC_EXP_NAME")


def _git(*arguments: str, **environment: str) -> str | None:
    """What git answers in the current folder, or None where it cannot: no git, no repository, no commit."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=True, env=os.environ | environment)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(errors="surrogateescape")


def texts() -> dict[str, str]:
    """What a run's record holds of this process and its code, by the name of the artifact."""
    return {ENVIRONMENT: Environment.here().to_json(), PATCH: patch()}
