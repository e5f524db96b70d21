"""A commit of this project in a temporary folder, and the files of its result in DVC's cache."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from charlm.errors import CharlmError

LOCK = "dvc.lock"
STAGES = ("download", "prepare", "train", "evaluate", "sample")
"""The stages that compute the result, in the order that they run in."""


class NotTriedError(CharlmError):
    """A result could not be reproduced or compared here, which does not mean that it differs."""

    exit_code = 2


_PLAIN = ("core.autocrlf=false", "core.eol=lf", "core.attributesFile=/dev/null", "core.hooksPath=/dev/null")
"""Settings of a clone in which files are as they were committed, whatever the user's own."""


def check_out(root: Path, commit: str, folder: Path) -> Path:
    """Put the files of `commit` in `folder`, by a clone that shares the objects of the repository around `root`.

    Returns the folder in it that `root` is in the repository.
    """
    if run(root, "git", "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise NotTriedError(
            f"Commit {commit} is not in this repository.",
            fix="Fetch it: `git fetch --all`, or `dvc exp pull origin NAME` if only a DVC experiment has it. If it was "
            "never pushed, run this in the clone that it was made in.",
        )
    top, place = (
        os.fsdecode(require(run(root, "git", "rev-parse", f"--show-{what}"))).rstrip("\n")
        for what in ("toplevel", "prefix")
    )
    if run(root, "git", "config", "--get-regexp", r"^remote\..*\.promisor$").stdout:
        # A partial clone fetches what it lacks, but another that shares its objects does not.
        empty = os.fsdecode(require(run(root, "git", "hash-object", "-t", "tree", "--stdin", stdin=b""))).strip()
        require(run(root, "git", "diff-tree", "--shortstat", empty, commit))
    settings = (word for setting in _PLAIN for word in ("--config", setting))
    clone = ("git", "clone", "--quiet", "--shared", "--no-checkout", "--template=", *settings)
    require(run(root, *clone, "--", top, str(folder)))
    # Of a shallow repository git clones the branches alone: it has no experiments, and shares nothing.
    objects = os.fsdecode(require(run(root, "git", "rev-parse", "--git-path", "objects"))).rstrip("\n")
    (folder / ".git/objects/info/alternates").write_text(f"{(root / objects).resolve()}\n")
    require(run(folder, "git", "checkout", "--quiet", "--detach", commit))
    return folder / place


def outputs(lock: bytes) -> dict[tuple[str, str], str]:
    """DVC's digest of each output in a dvc.lock, by stage and path, in the order of STAGES."""
    stages = (YAML(typ="safe").load(lock) or {}).get("stages") or {}
    return {(name, out["path"]): out["md5"] for name in STAGES for out in stages.get(name, {}).get("outs", [])}


def cache_folder(root: Path) -> Path:
    """DVC's cache of the repository in `root`."""
    return Path(os.fsdecode(require(run(root, sys.executable, "-m", "dvc", "cache", "dir")).strip()))


def entry(cache: Path, digest: str) -> Path:
    """Where DVC's `cache` has the file with this digest."""
    return cache / "files/md5" / digest[:2] / digest[2:]


def require_intact(root: Path, lock: bytes) -> None:
    """Raise CharlmError if an output in `root` is not the one that its dvc.lock has.

    DVC takes a read-only file in its cache for intact, and restores it without a look at its content.
    """
    for (_, path), digest in outputs(lock).items():
        if md5(root / path) != digest:
            cached = entry(cache_folder(root), digest)
            raise CharlmError(
                f"{path} is not the file that {LOCK} has.",
                f"It was edited, or DVC restored it from a damaged file in its cache, {cached}.",
                "Delete it in both places, then run `dvc pull` if a remote has it, or `dvc repro`.",
            )


def restore(cache: Path, digest: str, path: Path) -> bool:
    """Put the file with this digest at `path`, from DVC's cache if it is not there; False if neither has it intact."""
    if path.is_file() and md5(path) == digest:
        return True
    cached = entry(cache, digest)
    if not digest or not cached.is_file() or md5(cached) != digest:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(cached, path)
    return True


def md5(path: Path) -> str:
    """DVC's digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def environment() -> dict[str, str]:
    """The environment of this process without what would lead git or DVC to another repository."""
    elsewhere = ("GIT_", "DVC_ROOT", "DVC_EXP", "DVC_STAGE")
    return {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)}


def run(folder: Path, *command: str, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    """Run `command` in `folder` and capture its output."""
    return subprocess.run(command, cwd=folder, env=environment(), input=stdin, capture_output=True, check=False)


def require(done: "subprocess.CompletedProcess[bytes]") -> bytes:
    """The output of a command; NotTriedError with its error output if it failed."""
    if done.returncode:
        raise NotTriedError(f"`{' '.join(done.args)}` failed:\n{os.fsdecode(done.stderr).strip()}")
    return done.stdout
