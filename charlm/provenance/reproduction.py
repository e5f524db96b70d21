"""Make a recorded result again, from its record alone, and hold the two side by side.

The commit is checked out into a temporary clone, which leaves the working tree, its lock and its data alone, and
DVC runs the stages there with tracking off. Results are compared by the digests that DVC keeps in dvc.lock.
`make verify` does it for the committed result, `charlm reproduce` for an MLflow run.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from packaging.utils import canonicalize_name
from safetensors.numpy import load_file

from charlm.config import project_root
from charlm.errors import CharlmError
from charlm.provenance.code import Environment
from charlm.provenance.repository import (
    CheckoutError,
    cache_folder,
    check_out,
    environment,
    outputs,
    place,
    require,
    run,
)

BOOK = "data/download/book.txt"
MADE_AGAIN = ("prepare", "train", "evaluate", "sample")
"""The stages that are forced; download is too when the book is not in DVC's cache."""
COMMITTED = ("params.yaml", "dvc.lock", "data/evaluate/metrics.json")
PINS = "requirements.lock"
PAGE = "docs/reproducibility.md"
"""The page whose tables tell the digests of the committed result, and the machine that they were measured on."""


class NotTriedError(CheckoutError):
    """A result cannot be made again here; not that it came out differently."""

    exit_code = 2


class PackagesDifferError(NotTriedError):
    """The packages here are not those that the result was made with."""

    def __init__(self, differences: list[str]) -> None:
        listed = "".join(f"\n  {line}" for line in differences)
        super().__init__(
            f"The packages differ from those of the run:{listed}\n"
            "Install those on record (the requirements.lock of its commit has them), or go on with --anyway."
        )


@dataclass(frozen=True)
class Record:
    """All that it takes to make a result again."""

    commit: str
    patch: bytes
    """From the commit to the code that ran, as `git diff --binary` writes it."""
    params: bytes
    """params.yaml."""
    lock: bytes
    """dvc.lock."""


@dataclass(frozen=True)
class FileComparison:
    """A result's file: the stage that writes it, and DVC's digest of it on record and made again."""

    stage: str
    path: str
    recorded: str
    reproduced: str

    @property
    def same(self) -> bool:
        """Whether it came out again."""
        return self.recorded == self.reproduced


def compare(recorded: bytes, reproduced: bytes) -> list[FileComparison]:
    """Every file of the stages in two states of dvc.lock, in the order of the stages; record's own left out."""
    old, new = (_outputs(text) for text in (recorded, reproduced))
    return [FileComparison(*key, old.get(key, "missing"), new.get(key, "missing")) for key in {**old, **new}]


def _outputs(lock: bytes) -> dict[tuple[str, str], str]:
    """Digest by stage and path; the order is that of running, which dvc.lock does not keep."""
    return outputs(lock, ("download", *MADE_AGAIN))


@contextmanager
def made_again(record: Record, *, whole: bool = False) -> Iterator[Path]:
    """A temporary folder with the result of `record`, made anew; it is gone after the block.

    The book is taken from DVC's cache if it is there, else downloaded; with `whole` it is downloaded in any case, and
    every stage runs, so that DVC writes the whole of dvc.lock.

    Raises NotTriedError when the commit is not in this repository or its code cannot be run.
    """
    root = project_root()
    with tempfile.TemporaryDirectory(prefix="charlm-reproduce.") as temporary:
        folder = Path(temporary) / "project"
        _lay_out(root, record, folder)
        if whole:
            _repro(folder)
        elif place(cache_folder(root), _outputs(record.lock).get(("download", BOOK), ""), folder / BOOK):
            _repro(folder, "--single-item", *MADE_AGAIN)
        else:
            _repro(folder, "--single-item", "download", *MADE_AGAIN)
        yield folder


def _lay_out(root: Path, record: Record, folder: Path) -> None:
    """The code, the parameters and the lock of `record` in `folder`."""
    check_out(root, record.commit, folder)
    if record.patch:
        require(run(folder, "git", "-c", "apply.whitespace=nowarn", "apply", "-", given=record.patch))
    (folder / "params.yaml").write_bytes(record.params)
    (folder / "dvc.lock").write_bytes(record.lock)


def _repro(folder: Path, *arguments: str) -> None:
    """Force DVC to run stages in `folder`, with the packages of this process and no tracking."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", "repro", "--force", *arguments]
    settings = environment() | {"PATH": path, "CHARLM_TRACKING": "off"}
    done = subprocess.run(command, cwd=folder, env=settings, stdout=sys.stderr, check=False)
    if done.returncode:
        raise NotTriedError("The stages could not be run again; the reason stands above.")


class DifferentError(CharlmError):
    """A result came out differently; names the first file, its stage, and where the numbers begin to differ."""

    def __init__(self, first: FileComparison, number: str | None, known: Sequence[str]) -> None:
        where = f"\nFirst difference, {number}." if number else ""
        listed = "".join(f"\n  {line}" for line in known) or " nothing that is on record."
        super().__init__(
            f"Not reproduced: {first.path} of stage {first.stage} is the first file that differs.{where}\n"
            f"What differs about this machine:{listed}"
        )


def report(record: Record, remade: Path, artifacts: Path, known: Sequence[str]) -> None:
    """Print the files of `record` beside those in the folder `remade`; DifferentError when one is another.

    `artifacts` is a folder with model.safetensors (in checkpoint/) and metrics.json as they were recorded, as far as
    they are there; `known` says what differs about this machine.
    """
    from rich.console import Console
    from rich.table import Table

    files = compare(record.lock, (remade / "dvc.lock").read_bytes())
    table = Table("file", "recorded", "reproduced", "")
    for file in files:
        table.add_row(file.path, file.recorded, file.reproduced, "same" if file.same else "DIFFERENT")
    Console(width=120).print(table)
    different = [file for file in files if not file.same]
    if different:
        raise DifferentError(different[0], _first_number(remade, artifacts), known)


def _first_number(remade: Path, artifacts: Path) -> str | None:
    """The first weight that differs, else the first figure; None when there is nothing to compare."""
    pairs = {"checkpoint/model.safetensors": "data/train", "metrics.json": "data/evaluate"}
    for name, folder in pairs.items():
        old, new = artifacts / name, remade / folder / Path(name).name
        if old.is_file() and new.is_file() and (number := first_difference(old, new)):
            return number
    return None


def first_difference(recorded: Path, reproduced: Path) -> str | None:
    """Where two files begin to differ, with both values: a figure of metrics.json, or a weight; None if nowhere."""
    old, new = (_numbers(path) for path in (recorded, reproduced))
    for name in old:
        if name not in new or old[name].shape != new[name].shape:
            return f"{name}: its shape is another"
        if len(where := np.argwhere(old[name] != new[name])):
            at = tuple(int(index) for index in where[0])
            position = f"[{', '.join(map(str, at))}]" if at else ""
            return f"{name}{position}: {old[name][at]!s} on record, {new[name][at]!s} now"
    return None


def _numbers(path: Path) -> dict[str, NDArray[Any]]:
    """The numbers in a checkpoint or in metrics.json, by name."""
    if path.suffix == ".safetensors":
        return load_file(path)
    metrics = json.loads(path.read_text(encoding="utf-8"))
    return {f"{part}.{name}": np.array(value) for part, values in metrics.items() for name, value in values.items()}


class StaleError(CharlmError):
    """What is committed does not belong together."""

    def __init__(self, problems: list[str]) -> None:
        listed = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(
            f"What is committed does not belong together:{listed}\n"
            "Run `make repro`, mend docs/reproducibility.md, and commit them with the code."
        )


def verify(root: Path) -> None:
    """Make the committed result of the repository in `root` again, and hold dvc.lock and metrics.json against it.

    Raises DifferentError when a file comes out differently, StaleError when dvc.lock or the digests in
    docs/reproducibility.md are not those of the committed code and params.yaml.
    """
    commit = os.fsdecode(require(run(root, "git", "rev-parse", "HEAD")).strip())
    committed = {name: require(run(root, "git", "show", f"HEAD:{name}")) for name in (*COMMITTED, PAGE, PINS)}
    page = committed[PAGE].decode()
    record = Record(commit, patch=b"", params=committed["params.yaml"], lock=committed["dvc.lock"])
    with tempfile.TemporaryDirectory(prefix="charlm-record.") as folder, made_again(record, whole=True) as remade:
        (Path(folder) / "metrics.json").write_bytes(committed["data/evaluate/metrics.json"])
        report(record, remade, Path(folder), _known_differences(page, committed[PINS].decode()))
        other = [name for name in COMMITTED if (remade / name).read_bytes() != committed[name]]
    problems = [f"{name} is not what the committed code writes" for name in other]
    problems += _page_problems(page, record.lock)
    if problems:
        raise StaleError(problems)


def _page_problems(page: str, lock: bytes) -> list[str]:
    """A line for every file whose digest in the page's table is not that of `lock`, or that only one of them has."""
    table = dict(re.findall(r"^\| `(data/[^`]+)` \| `([0-9a-f]{32})` \|$", page, re.MULTILINE))
    expected = {path: digest for (_, path), digest in _outputs(lock).items()}
    behind = [path for path in expected | table if table.get(path) != expected.get(path)]
    return [f"{PAGE} has {table.get(path)} for {path}, dvc.lock {expected.get(path)}" for path in behind]


def _known_differences(page: str, pins: str) -> list[str]:
    """How this machine differs from that of the page's table and from requirements.lock."""
    here = Environment.here()
    measured = dict(re.findall(r"^\| ([A-Z][\w ]+) \| (.+) \|$", page, re.MULTILINE))
    pinned = re.findall(r"^([a-z0-9._-]+)==(\S+)$", pins, re.MULTILINE)
    installed = {name: version.partition("+")[0] for name, version in here.packages.items()}
    recorded = {"Python": (measured.get("Python"), here.python)}
    recorded["CPU capability"] = (measured.get("CPU capability"), here.cpu_capability)
    recorded |= {name: (version, installed.get(canonicalize_name(name), "not installed")) for name, version in pinned}
    return [f"{name}: {old} on record, {new} here" for name, (old, new) in recorded.items() if old != new]


@click.command()
def main() -> None:
    """Make the committed result again and hold it against dvc.lock and metrics.json."""
    verify(project_root())
    click.echo("Verified: the committed dvc.lock and metrics.json came out again, byte for byte.")


if __name__ == "__main__":
    main()
