"""Reproduce a recorded result from its record alone, and compare the two.

The commit is checked out into a temporary clone, so the working tree, its lock and its data are not touched. DVC runs
the stages there with tracking off. Files are compared by the digests in dvc.lock. `make verify` does this for the
committed result, `charlm reproduce` for an MLflow run.
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
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from charlm.config import PARAMS_FILE, project_root
from charlm.errors import CharlmError, indented
from charlm.provenance import repository
from charlm.provenance.environment import Environment, differences
from charlm.provenance.repository import LOCK, STAGES, NotTriedError, outputs, require, run

BOOK = "data/download/book.txt"
METRICS = "data/evaluate/metrics.json"
PINS = "requirements.lock"
PAGE = "docs/reproducibility.md"
"""Its tables have the digests of the committed result and the machine that computed it."""


class DifferentError(CharlmError):
    """A reproduced file differs from the recorded one."""


@dataclass(frozen=True)
class Record:
    """What it takes to reproduce a result; `patch` leads from the commit to the code that ran."""

    commit: str
    patch: bytes
    params: bytes
    lock: bytes


@contextmanager
def reproduced(record: Record, *, all_stages: bool = False) -> Iterator[Path]:
    """A temporary folder with the result of `record`, computed again; it is removed after the block.

    The text comes from DVC's cache if it is there; otherwise, and with `all_stages`, it is downloaded. With
    `all_stages` DVC writes all of dvc.lock.

    Raises NotTriedError if the commit is not in this repository or its code cannot be run.
    """
    root = project_root()
    with tempfile.TemporaryDirectory(prefix="charlm-reproduce.") as temporary:
        folder = repository.check_out(root, record.commit, Path(temporary) / "project")
        if record.patch:
            require(run(folder, "git", "-c", "apply.whitespace=nowarn", "apply", "-", stdin=record.patch))
        (folder / PARAMS_FILE).write_bytes(record.params)
        (folder / LOCK).write_bytes(record.lock)
        if all_stages:
            _repro(folder)
        else:
            text = outputs(record.lock).get(("download", BOOK), "")
            cached = repository.restore(repository.cache_folder(root), text, folder / BOOK)
            _repro(folder, "--single-item", *STAGES[1 if cached else 0 :])
        yield folder


def _repro(folder: Path, *arguments: str) -> None:
    """Make DVC run stages in `folder` again, with the packages of this process and no tracking."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", "repro", "--force", *arguments]
    settings = repository.environment() | {"PATH": path, "CHARLM_TRACKING": "off"}
    if subprocess.run(command, cwd=folder, env=settings, stdout=sys.stderr, check=False).returncode:
        raise NotTriedError("The stages could not be run again; the reason is above.")


def report(record: Record, folder: Path, artifacts: Path, known: Sequence[str], *, other_machine: bool = False) -> None:
    """Print the files of `record` beside those reproduced in `folder`; DifferentError if one differs.

    `artifacts` is a folder with the recorded checkpoint/model.safetensors and metrics.json, as far as they exist;
    `known` says what differs about this machine, and `other_machine` that it is not the one of the record.
    """
    from rich.console import Console
    from rich.table import Table

    old, new = outputs(record.lock), outputs((folder / LOCK).read_bytes())
    table, different = Table("file", "recorded", "reproduced", ""), []
    for stage, path in old | new:
        recorded, again = (digests.get((stage, path), "missing") for digests in (old, new))
        table.add_row(path, recorded, again, "same" if recorded == again else "DIFFERENT")
        if recorded != again:
            different.append(f"{path} of stage {stage}")
    Console(width=120).print(table)
    if different:
        pairs = {"checkpoint/model.safetensors": "data/train/model.safetensors", "metrics.json": METRICS}
        numbers = (first_difference(artifacts / name, folder / path) for name, path in pairs.items())
        number = next(filter(None, numbers), None)
        causes = f"What differs about this machine:{indented(known) or ' nothing that is on record.'}"
        raise DifferentError(
            f"Not reproduced: {different[0]} is the first file that differs.",
            f"First difference, {number}." if number else "",
            causes + (_promise(record.params) if other_machine else ""),
        )


def _promise(params: bytes) -> str:
    """Why another machine may differ with these parameters, and what to set; empty if it must not."""
    precision = (YAML(typ="safe").load(params).get("train") or {}).get("precision", "exact")
    if precision == "exact":
        return ""
    return (
        f"\ntrain.precision={precision} promises the same bytes on one machine only; "
        "train.precision=exact promises them on every x86-64 CPU."
    )


def first_difference(recorded: Path, reproduced: Path) -> str | None:
    """The first figure of metrics.json, or weight, that differs, with both values; None if none does or can be read."""
    if not (recorded.is_file() and reproduced.is_file()):
        return None
    old, new = (_numbers(path) for path in (recorded, reproduced))
    for name in old:
        if name not in new or old[name].shape != new[name].shape:
            return f"{name}: its shape differs"
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
    return {f"{group}.{name}": np.array(value) for group, values in metrics.items() for name, value in values.items()}


def verify(root: Path) -> None:
    """Reproduce the committed result of the repository in `root`, and compare dvc.lock and metrics.json.

    Raises DifferentError if a file differs, CharlmError if dvc.lock or the digests in docs/reproducibility.md do not
    belong to the committed code and params.yaml.
    """
    commit = os.fsdecode(require(run(root, "git", "rev-parse", "HEAD")).strip())
    names = (PARAMS_FILE, LOCK, METRICS)
    committed = {name: require(run(root, "git", "show", f"HEAD:./{name}")) for name in (*names, PAGE, PINS)}
    page = committed[PAGE].decode()
    _verify_arithmetic(page)
    record = Record(commit, patch=b"", params=committed[PARAMS_FILE], lock=committed[LOCK])
    with tempfile.TemporaryDirectory(prefix="charlm-record.") as artifacts, reproduced(record, all_stages=True) as new:
        (Path(artifacts) / "metrics.json").write_bytes(committed[METRICS])
        report(record, new, Path(artifacts), _known_differences(page, committed[PINS].decode()))
        other = [name for name in names if (new / name).read_bytes() != committed[name]]
    problems = [f"{name} is not what the committed code writes" for name in other] + _page_problems(page, record.lock)
    if problems:
        raise CharlmError(
            f"The committed files do not belong together:{indented(problems)}",
            fix=f"Run `make repro`, correct {PAGE}, and commit them with the code.",
        )


def _verify_arithmetic(page: str) -> None:
    """Raise DifferentError if this machine's arithmetic is not that of `page`, before a pipeline runs for nothing."""
    from charlm.provenance import arithmetic

    problems = [f"{name} does not round correctly" for name in arithmetic.wrong_kernels()]
    digests = re.findall(r"^\| GPT, \d+ iterations \| `([0-9a-f]{64})` \|$", page, re.MULTILINE)
    if digests != [found := arithmetic.gpt_digest()]:
        problems.append(f"{PAGE} has {', '.join(digests) or 'no digest'} for a short GPT, this machine has {found}")
    if problems:
        raise DifferentError(f"This machine does not compute as train.precision exact does:{indented(problems)}")


def _page_problems(page: str, lock: bytes) -> list[str]:
    """A line for every file whose digests in the page's table and in `lock` differ, or that only one of them has."""
    table = dict(re.findall(r"^\| `(data/[^`]+)` \| `([0-9a-f]{32})` \|$", page, re.MULTILINE))
    expected = {path: digest for (_, path), digest in outputs(lock).items()}
    wrong = [path for path in expected | table if table.get(path) != expected.get(path)]
    return [f"{PAGE} has {table.get(path)} for {path}, dvc.lock {expected.get(path)}" for path in wrong]


def _known_differences(page: str, pins: str) -> list[str]:
    """How this machine differs from the page's table and from requirements.lock."""
    here = Environment.here()
    table = dict(re.findall(r"^\| (Python|CPU capability) \| (.+) \|$", page, re.MULTILINE))
    pinned = {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", pins, re.MULTILINE)
    }
    installed = {name: version.partition("+")[0] for name, version in here.packages.items() if name in pinned}
    facts = {"Python": here.python, "CPU capability": here.cpu_capability}
    return differences(table | pinned, facts | installed)


@click.command()
def main() -> None:
    """Reproduce the committed result and compare it with dvc.lock and metrics.json."""
    verify(project_root())
    click.echo("Verified: the committed dvc.lock and metrics.json are reproduced, byte for byte.")


if __name__ == "__main__":
    main()
