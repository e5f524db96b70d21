"""Runs for every result that DVC still knows: each experiment and commit whose files are in its cache.

What happened only live (times, throughput, the machine) is not among it: such a run is tagged as restored.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from charlm.config import PARAMS_FILE, flatten, load_params
from charlm.errors import CharlmError
from charlm.provenance.code import Origin
from charlm.provenance.repository import check_out, md5, outputs, place, require, run
from charlm.results import Results
from charlm.summary import markdown
from charlm.tracking.record import Content, is_recorded, record
from charlm.tracking.store import Store

LOCK = "dvc.lock"
STAGES = ("download", "prepare", "train", "evaluate", "sample")


class LeftOutError(CharlmError):
    """A commit has no result that could be recorded; the message says why."""


@dataclass(frozen=True)
class State:
    """A commit with a result, and the name of the DVC experiment that it is, if it is one."""

    commit: str
    experiment: str | None

    def __str__(self) -> str:
        return self.experiment or self.commit[:12]


def states(root: Path) -> list[State]:
    """Every experiment, and every commit of a branch or tag that changes dvc.lock; no result of a lock twice."""
    listed = os.fsdecode(require(run(root, "git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps")))
    experiments = re.findall(r"^(\w+) refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)$", listed, re.MULTILINE)
    log = ("git", "log", "--format=%H", "--branches", "--tags", "--remotes", "HEAD", "--", LOCK)
    commits = os.fsdecode(require(run(root, *log))).split()
    by_result: dict[bytes, State] = {}
    for state in [*(State(*found) for found in experiments), *(State(commit, None) for commit in commits)]:
        result = run(root, "git", "rev-parse", f"{state.commit}:{LOCK}", f"{state.commit}:{PARAMS_FILE}")
        if not result.returncode:
            by_result.setdefault(result.stdout, state)
    return list(by_result.values())


def sync(root: Path, cache: Path, store: Store, state: State) -> list[str]:
    """Record the result of `state` in `store` and return the runs made or completed for it; none if it is recorded.

    Its files are taken from DVC's `cache`.

    Raises LeftOutError when it is not whole, LeftOutError or ParamsError when it is one of other code than this.
    """
    with _laid_out(root, cache, state) as folder:
        content, origin = _content(folder), Origin(folder, state.experiment)
        return [] if is_recorded(store, content, origin) else record(store, content, origin)


@contextmanager
def _laid_out(root: Path, cache: Path, state: State) -> Iterator[Path]:
    """A temporary folder with the project at `state`, its results in place."""
    with tempfile.TemporaryDirectory(prefix="charlm-sync.") as temporary:
        folder = Path(temporary) / "project"
        check_out(root, state.commit, folder)
        lock = (folder / LOCK).read_bytes()
        held = outputs(lock, STAGES)
        if lacking := [stage for stage in STAGES if stage not in {name for name, _ in held}]:
            raise LeftOutError(f"{LOCK} has no result of {', '.join(lacking)}")
        _require_params(lock, (folder / PARAMS_FILE).read_bytes())
        missing = [
            path
            for (_, path), digest in held.items()
            if not place(cache, digest, folder / path) and not _is_in_git(folder / path, digest)
        ]
        if missing:
            listed = ", ".join(missing)
            raise LeftOutError(f"{listed}: not in DVC's cache (dvc fetch --all-commits, if a remote has it)")
        yield folder


def _is_in_git(path: Path, digest: str) -> bool:
    """Whether the commit itself has the file, as it has those that DVC does not cache."""
    return path.is_file() and md5(path) == digest


def _require_params(lock: bytes, params: bytes) -> None:
    """Raise LeftOutError when a stage of the lock has run with other values."""
    yaml = YAML(typ="safe")
    now: Any = yaml.load(params)
    for stage in yaml.load(lock)["stages"].values():
        for section, values in stage.get("params", {}).get(PARAMS_FILE, {}).items():
            if now.get(section) != values:
                raise LeftOutError(f"{LOCK} holds the result of other parameters than those in {PARAMS_FILE}")


def _content(folder: Path) -> Content:
    """What the run of the project in `folder` holds."""
    params, results = load_params(folder / PARAMS_FILE), Results(folder / "data")
    values = flatten(**dict(params))
    pipeline = {name: (folder / name).read_text(encoding="utf-8") for name in (PARAMS_FILE, LOCK)}
    try:
        return results.content(values, pipeline, markdown(results, values))
    except (KeyError, ValueError) as err:
        raise LeftOutError(f"its files are not what this code reads ({type(err).__name__}: {err})") from err
