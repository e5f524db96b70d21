"""A run that was recorded, found again by what a person calls it, with what its record holds."""

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.errors import CharlmError
from charlm.provenance.code import COMMIT_TAG
from charlm.tracking.store import CHECKPOINT_TAG, RECORD_LATER, Store, shown, telling

if TYPE_CHECKING:
    from mlflow.entities import Run

REPRODUCED_TAG = "charlm.reproduced"


class NoSuchRunError(CharlmError):
    """Not exactly one run is meant, or it is none that could be made again."""

    def __init__(self, reference: str, found: str) -> None:
        super().__init__(
            f"{reference}: {found}.\nExpected a run's id, a unique beginning of one, a run's name, or `latest`; "
            "`charlm ui` shows them."
        )


class IncompleteRecordError(CharlmError):
    """A run lacks what it takes to make it again."""

    def __init__(self, run: str, name: str) -> None:
        super().__init__(
            f"Run {run} holds no {name}: its record is not complete, or its artifacts are gone.\n"
            f"`{RECORD_LATER}` completes it where its result stands below data/."
        )


@dataclass(frozen=True)
class RecordedRun:
    """A finished run, with what its record holds for making it again."""

    run_id: str
    name: str
    commit: str
    artifacts: Path
    """A folder with them."""

    def read(self, name: str) -> bytes:
        """An artifact; IncompleteRecordError when the run holds none of this name."""
        path = self.artifacts / name
        if not path.is_file():
            raise IncompleteRecordError(self.name, name)
        return path.read_bytes()


def recorded_run(store: Store, reference: str, folder: Path) -> RecordedRun:
    """The run that `reference` means (id, beginning of one, name, `latest`), its artifacts fetched into `folder`.

    Raises NoSuchRunError when none or several are meant, or the run has not finished, or is not of charlm.
    """
    with telling(store.uri):
        run = find_run(store, reference)
    info, commit = run.info, run.data.tags.get(COMMIT_TAG)
    if info.status != "FINISHED":
        raise NoSuchRunError(reference, f"run {info.run_id} is {info.status}, there is no result to make again")
    if CHECKPOINT_TAG not in run.data.tags:
        raise NoSuchRunError(reference, "it is not a run of charlm's, there is nothing to hold a result against")
    if commit is None:
        raise NoSuchRunError(reference, "it was made outside git, its code is not on record")
    with telling(store.uri):
        store.client.download_artifacts(info.run_id, "", str(folder))
    return RecordedRun(info.run_id, info.run_name, commit, folder)


def find_run(store: Store, reference: str) -> "Run":
    """The one run that `reference` means, of all in the experiment, newest first."""
    runs = store.runs()
    if reference == "latest":
        found = [run for run in runs if CHECKPOINT_TAG in run.data.tags][:1]
    else:
        named = [run for run in runs if run.info.run_name == reference]
        found = named or [run for run in runs if run.info.run_id.startswith(reference)]
    if len(found) == 1:
        return found[0]
    several = ", ".join(f"{run.info.run_id[:12]} ({run.info.run_name})" for run in found[:5])
    raise NoSuchRunError(
        reference, f"{len(found)} runs are meant: {several}" if found else f"no such run in {shown(store.uri)}"
    )


def note_reproduced(store: Store, run_id: str, under: str = "") -> str:
    """Tag the run as made again: how many times, when, where and `under` which conditions last; return the text."""
    with telling(store.uri):
        before = store.client.get_run(run_id).data.tags.get(REPRODUCED_TAG, "0")
        times = int(before.split()[0]) + 1
        when = datetime.now(UTC).isoformat(timespec="seconds")
        where = f"{platform.node()} ({platform.machine()}){under}"
        text = f"{times} time{'s' if times > 1 else ''}, last {when} on {where}"
        store.client.set_tag(run_id, REPRODUCED_TAG, text)
    return text
