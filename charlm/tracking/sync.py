"""Runs for every result that DVC still knows: each experiment and commit whose files are in its cache.

Times, throughput and the machine are not among them, for only a live run logs those; so the runs are tagged restored.
"""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from charlm.config import PARAMS_FILE, load_params
from charlm.errors import CharlmError
from charlm.provenance.code import Origin, experiments
from charlm.provenance.repository import LOCK, STAGES, check_out, outputs, require, restore, run
from charlm.results import Results
from charlm.tracking.content import content_of
from charlm.tracking.record import deleted_run, is_recorded, record
from charlm.tracking.store import Store

FETCH = "dvc fetch --all-commits, if a remote has it"


class LeftOutError(CharlmError):
    """A commit has no result that can be recorded; the message says why."""


class NotCachedError(LeftOutError):
    """Its files are not in DVC's cache."""


@dataclass(frozen=True)
class State:
    """A commit with a result, and the name of its DVC experiment, if it is one."""

    commit: str
    experiment: str | None

    def __str__(self) -> str:
        return self.experiment or self.commit[:12]


def states(root: Path) -> list[State]:
    """Every experiment, and every commit of a branch or tag that changes dvc.lock; one for each result."""
    log = ("git", "log", "--format=%H", "--branches", "--tags", "--remotes", "HEAD", "--", LOCK)
    commits = os.fsdecode(require(run(root, *log))).split()
    by_result: dict[bytes, State] = {}
    for state in [*(State(*found) for found in experiments(root)), *(State(commit, None) for commit in commits)]:
        result = run(root, "git", "rev-parse", f"{state.commit}:./{LOCK}", f"{state.commit}:./{PARAMS_FILE}")
        if not result.returncode:
            by_result.setdefault(result.stdout, state)
        elif not re.search(b"does not exist in|exists on disk, but not in", result.stderr):
            by_result[state.commit.encode()] = state  # unreadable, as `sync` reports
    return list(by_result.values())


def sync(root: Path, cache: Path, store: Store, state: State) -> list[str]:
    """Record the result of `state`, its files from DVC's `cache`; return the runs created or completed for it.

    Raises LeftOutError if the result is incomplete or cannot be read, another CharlmError if the store refuses it.
    """
    with tempfile.TemporaryDirectory(prefix="charlm-sync.") as temporary:
        try:
            folder = _check_out(root, cache, state, Path(temporary) / "project")
            params, results = load_params(folder / PARAMS_FILE), Results(folder / "data")
            texts = {name: (folder / name).read_text(encoding="utf-8") for name in (PARAMS_FILE, LOCK)}
            content = content_of(results, params, texts)
        except LeftOutError:
            raise
        except CharlmError as err:
            raise LeftOutError(err.message.replace("\n", " ")) from err
        except (OSError, ValueError, LookupError, TypeError, AttributeError, YAMLError) as err:
            raise LeftOutError(f"this code cannot read its files ({type(err).__name__}: {err})") from err
        origin = Origin(folder, state.experiment, root)
        if is_recorded(store, content, origin):
            return []
        if deleted := deleted_run(store, content, origin):
            raise LeftOutError(f"its run {deleted} was deleted; `mlflow runs restore --run-id {deleted}` restores it")
        return record(store, content, origin)


def _check_out(root: Path, cache: Path, state: State, clone: Path) -> Path:
    """Put the project at `state` with its results in `clone`; return its folder there."""
    folder = check_out(root, state.commit, clone)
    lock = (folder / LOCK).read_bytes()
    digests = outputs(lock)
    if lacking := [stage for stage in STAGES if stage not in {name for name, _ in digests}]:
        raise LeftOutError(f"{LOCK} has no result of {', '.join(lacking)}")
    _require_params(lock, (folder / PARAMS_FILE).read_bytes())
    # The commit itself has the files that DVC does not cache.
    missing = [path for (_, path), digest in digests.items() if not restore(cache, digest, folder / path)]
    if missing:
        raise NotCachedError(f"{', '.join(missing)}: not in DVC's cache ({FETCH})")
    return folder


def _require_params(lock: bytes, params: bytes) -> None:
    """Raise LeftOutError if a stage in the lock ran with other values."""
    yaml = YAML(typ="safe")
    now: Any = yaml.load(params)
    for stage in yaml.load(lock)["stages"].values():
        for key, values in stage.get("params", {}).get(PARAMS_FILE, {}).items():
            value = now
            for name in key.split("."):
                value = value.get(name) if isinstance(value, dict) else None
            if value != values:
                raise LeftOutError(f"{LOCK} has the result of other parameters than those in {PARAMS_FILE}")
