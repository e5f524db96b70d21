"""A recorded run, reproduced."""

import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charlm.config import PARAMS_FILE
from charlm.errors import CharlmError, indented
from charlm.provenance import reproduction
from charlm.provenance.code import COMMIT_TAG, ENVIRONMENT, PATCH
from charlm.provenance.environment import Environment
from charlm.provenance.repository import LOCK
from charlm.tracking.find import find_run, unusable
from charlm.tracking.store import CHECKPOINT_TAG, RECORD_LATER, Store, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Run

REPRODUCED_TAG = "charlm.reproduced"


def reproduce(store: Store, reference: str, *, ignore_packages: bool) -> str:
    """Reproduce the run that `reference` means, compare every file, tag the run; return a sentence about it.

    Raises DifferentError if a file differs, another CharlmError if the run cannot be reproduced here: it is not
    finished or not charlm's, its record is incomplete, or, without `ignore_packages`, packages that decide a result
    have other versions.
    """
    with store_errors(store.uri):
        run = find_run(store, reference)
    commit = _require_commit(run, reference)
    with tempfile.TemporaryDirectory(prefix="charlm-record.") as folder:
        with store_errors(store.uri):
            store.client.download_artifacts(run.info.run_id, "", folder)
        names = (PATCH, PARAMS_FILE, LOCK, ENVIRONMENT)
        patch, params, lock, environment = (_read(Path(folder) / name, run) for name in names)
        recorded, here = Environment.from_json(environment), Environment.here()
        software = recorded.decisive_differences(here)
        if software and not ignore_packages:
            raise CharlmError(
                f"The packages that decide a result differ from those of the run:{indented(software)}",
                fix="Install the recorded ones (requirements.lock of its commit), or go on with --ignore-packages.",
            )
        record = reproduction.Record(commit, patch, params, lock)
        if others := recorded.other_differences(here):
            click.echo(f"Other packages differ, which decide no result:{indented(others)}", err=True)
        with reproduction.reproduced(record) as again:
            machine = recorded.machine_differences(here)
            known = software + others + machine
            reproduction.report(record, again, Path(folder), known, other_machine=bool(machine))
    return f"Run {run.info.run_name} reproduced exactly: {_tag_reproduced(store, run, other_packages=bool(software))}."


def _require_commit(run: "Run", reference: str) -> str:
    """The commit of a run that can be reproduced; CharlmError for any other run."""
    commit = run.data.tags.get(COMMIT_TAG)
    if run.info.status != "FINISHED":
        raise unusable(reference, f"run {run.info.run_id} is {run.info.status}, it has no result to reproduce")
    if CHECKPOINT_TAG not in run.data.tags:
        raise unusable(reference, "it is not a run of charlm, there is no result to compare with")
    if commit is None:
        raise unusable(reference, "it was made outside git, its code is not on record")
    return commit


def _read(artifact: Path, run: "Run") -> bytes:
    """The content of an artifact; CharlmError if the run has none of this name."""
    if not artifact.is_file():
        raise CharlmError(
            f"Run {run.info.run_name} has no {artifact.name}: its record is not complete, or its artifacts were lost.",
            fix=f"`{RECORD_LATER}` completes it if its result is under data/.",
        )
    return artifact.read_bytes()


def _tag_reproduced(store: Store, run: "Run", *, other_packages: bool) -> str:
    """Tag the run as reproduced: how many times, and when, where and with what last; return the text."""
    with store_errors(store.uri):
        before = store.client.get_run(run.info.run_id).data.tags.get(REPRODUCED_TAG, "0")
        times = int(before.split()[0]) + 1
        when = datetime.now(UTC).isoformat(timespec="seconds")
        text = f"{times} time{'s' if times > 1 else ''}, last {when} on {platform.node()} ({platform.machine()})"
        text += ", with other packages" if other_packages else ""
        store.client.set_tag(run.info.run_id, REPRODUCED_TAG, text)
    return text
