"""A commit of this project in a temporary folder, and the files of its results in DVC's cache."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from charlm.errors import CharlmError


class CheckoutError(CharlmError):
    """A commit cannot be laid out here."""

    exit_code = 2


def check_out(root: Path, commit: str, folder: Path) -> None:
    """The files of `commit` in `folder`, by a clone that shares the objects of the repository in `root`."""
    if run(root, "git", "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise CheckoutError(
            f"Commit {commit} is not in this repository.\n"
            "Fetch it (git fetch --all), or run this in the clone that it was made in."
        )
    require(run(root, "git", "clone", "--quiet", "--shared", "--no-checkout", str(root), str(folder)))
    require(run(folder, "git", "checkout", "--quiet", "--detach", commit))


def outputs(lock: bytes, stages: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """DVC's digest of each output of `stages` in a dvc.lock, by stage and path, in the order of `stages`."""
    content = (YAML(typ="safe").load(lock) or {}).get("stages") or {}
    return {(name, out["path"]): out["md5"] for name in stages for out in content.get(name, {}).get("outs", [])}


def cache_folder(root: Path) -> Path:
    """DVC's cache of the repository in `root`."""
    return Path(os.fsdecode(require(run(root, sys.executable, "-m", "dvc", "cache", "dir")).strip()))


def place(cache: Path, digest: str, path: Path) -> bool:
    """Copy the file of this digest from DVC's cache to `path`; False when it is not there, or damaged."""
    held = cache / "files/md5" / digest[:2] / digest[2:]
    if not digest or not held.is_file() or md5(held) != digest:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(held, path)
    return True


def md5(path: Path) -> str:
    """DVC's digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def environment() -> dict[str, str]:
    """That of this process without what would lead git or DVC to another repository than the folder they run in."""
    elsewhere = ("GIT_", "DVC_ROOT", "DVC_EXP", "DVC_STAGE")
    return {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)}


def run(folder: Path, *command: str, given: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    """Run `command` in `folder` with `given` as its input, and keep what it prints."""
    return subprocess.run(command, cwd=folder, env=environment(), input=given, capture_output=True, check=False)


def require(done: "subprocess.CompletedProcess[bytes]") -> bytes:
    """The output of a command that has to succeed; CheckoutError with its own words when it did not."""
    if done.returncode:
        raise CheckoutError(f"`{' '.join(done.args)}` failed:\n{os.fsdecode(done.stderr).strip()}")
    return done.stdout
