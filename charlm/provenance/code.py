"""Where a result comes from: the code, the packages and the machine, as a run's record keeps them."""

import getpass
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageMetadata, distributions
from pathlib import Path
from typing import Self

import psutil
from packaging.utils import canonicalize_name

ENVIRONMENT, PATCH = "environment.json", "patch.diff"
NAMES = {ENVIRONMENT, PATCH}
"""The artifacts that a record holds of them."""
COMMIT_TAG = "mlflow.source.git.commit"
EXPERIMENT_TAG = "charlm.dvc_experiment"
SWEEP_TAG = "charlm.sweep"
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
    """Version by canonical name, of everything installed."""

    @classmethod
    def here(cls) -> Self:
        """That of this process."""
        import torch

        return cls(
            python=platform.python_version(),
            platform=platform.platform(),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            threads=torch.get_num_threads(),
            packages=dict(sorted((canonicalize_name(d["Name"]), d["Version"]) for d in _installed() if d["Name"])),
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


def _installed() -> Iterator[PackageMetadata]:
    """The metadata of every package, read once: Distribution.name and .version read it each time."""
    return (distribution.metadata for distribution in distributions())


@dataclass(frozen=True)
class Origin:
    """The code in `folder` and the DVC `experiment` that it runs in, if any, as a run's record keeps them."""

    folder: Path
    experiment: str | None

    @classmethod
    def here(cls) -> Self:
        """That of this process."""
        return cls(Path(), os.environ.get("DVC_EXP_NAME"))

    def tags(self) -> dict[str, str]:
        """By the names of MLflow's tags; a fact that is not known is left out."""
        commit = _git(self.folder, "rev-parse", "HEAD")
        changed = _git(self.folder, "status", "--porcelain", "--", ".", *_NOT_CODE[:2])
        found = {
            "mlflow.user": _user(),
            COMMIT_TAG: commit.strip() if commit else None,
            "charlm.git_dirty": str(bool(changed)).lower() if commit else None,
            EXPERIMENT_TAG: self.experiment,
            SWEEP_TAG: _sweep(self.experiment or ""),
        }
        return {key: value for key, value in found.items() if value is not None}

    def files(self) -> dict[str, bytes]:
        """What a run's record holds of this process and the code, by the name of the artifact."""
        return {ENVIRONMENT: Environment.here().to_json().encode(), PATCH: patch(self.folder)}


def _sweep(experiment: str) -> str | None:
    """What DVC's names of the experiments of one grid share: `rates` of rates-1, rates-2 and so on."""
    numbered = re.fullmatch(r"(.+)-\d+", experiment)
    return numbered[1] if numbered else None


def process() -> str:
    """This process, told from all others on all machines: machine, process id, when it was started."""
    me = psutil.Process()
    return f"{_machine()} {me.pid} {_started(me)}"


def is_gone(process: str) -> bool:
    """Whether `process` is one of this machine and has ended."""
    machine, _, rest = process.partition(" ")
    if machine != _machine() or not rest:
        return False
    pid, started = rest.split()
    try:
        return _started(psutil.Process(int(pid))) != started
    except psutil.NoSuchProcess:
        return True


def _machine() -> str:
    """Its name, with systemd's id of it where there is one: names alone are often the same."""
    identity = Path("/etc/machine-id")
    return platform.node() + (f"/{identity.read_text().strip()[:12]}" if identity.is_file() else "")


def _started(process: psutil.Process) -> str:
    """Seconds from the machine's start to the process's: a clock that is put right changes both times."""
    return f"{process.create_time() - psutil.boot_time():.2f}"


def patch(project: Path) -> bytes:
    """What turns the last commit into the code of `project`: tracked changes, added and new files of the code.

    New ones count in charlm/ and stages/. The data, dvc.lock and params.yaml are not in it. Empty for a clean tree, and
    outside git. The form is that of git's own defaults, whatever the user's settings are.
    """
    index = _git(project, "rev-parse", "--git-path", "index")
    if index is None or _git(project, "rev-parse", "HEAD") is None:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        apart = {"GIT_INDEX_FILE": str(shutil.copy(project / index.strip(), folder))}
        _git(project, "add", "--update", **apart)
        for code in ("charlm", "stages"):
            _git(project, "add", "--", code, **apart)
        plain = ("--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
        differences = ("diff-index", "--cached", "-p", *plain, "HEAD", "--", ".", *_NOT_CODE)
        return _git_bytes(project, *differences, **apart) or b""


def _user() -> str | None:
    """The name of the user; None where the system knows none, as for a container's bare number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def _git(folder: Path, *arguments: str, **environment: str) -> str | None:
    """What git answers in `folder`, or None where it cannot: no git, no repository, no commit."""
    answer = _git_bytes(folder, *arguments, **environment)
    return None if answer is None else os.fsdecode(answer)


def _git_bytes(folder: Path, *arguments: str, **environment: str) -> bytes | None:
    settings = os.environ | environment
    try:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True, env=settings).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
