"""An MLflow store and the experiment in it: opened, or told why it cannot be, with what to do about it."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from charlm.errors import CharlmError
from charlm.provenance import code as provenance

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "charlm"
CHECKPOINT_TAG = "charlm.checkpoint_sha256"
RESULTS_TAG = "charlm.results_sha256"
ORIGIN_TAG = "charlm.origin"
PROCESS_TAG = "charlm.process"
ABANDONED_TAG = "charlm.abandoned"
NOTE_TAG = "mlflow.note.content"
RECORD_LATER = "dvc repro --force --single-item record"
"""What records a result that stands below data/ already."""
BATCH = 1000
"""MLflow's limit on the metrics of one log_batch."""
_FIRST_ANSWER = 8.0  # seconds that a server has to answer at all
_LOCK_TIMEOUT = 60.0  # seconds; the longest that one process holds it is for making the tables
_REMEDIES = {
    "You are not authenticated": (
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user that the server knows."
    ),
    "(registered-models|model-versions).*error code 403": (
        "Have its owner or an administrator let {user} write to the registered model charlm."
    ),
    "error code 403.*Permission denied": (
        "Have its owner or an administrator let {user} write to the experiment {experiment}."
    ),
    "Max retries exceeded|timed out": "Is the address right, and does the server run?",
    "Invalid Host header": "Have its administrator add {host} to --allowed-hosts.",
    "out-of-date database schema|locate revision": (
        "Its tables are another MLflow's. An older one's: keep a copy of it, then mlflow db upgrade {uri}. "
        "A newer one's: install that MLflow."
    ),
    "readonly database|Read-only|Permission denied:|unable to open database": (
        "It cannot be written to: give yourself the right to, on the file and on its folder."
    ),
    "disk is full|No space left|disk I/O error": "The disk is full, or fails: make room.",
    "database is locked": "Another process holds it for long: wait for that, or end it.",
}
"""What to do, by what a store says; the first that fits."""


class TrackingError(CharlmError):
    """The store cannot be used."""

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__(
            f"MLflow cannot use its store {shown(uri)}: {shown(problem)}\n"
            f"{_remedy(uri, problem)}\nOr set MLFLOW_TRACKING_URI to another store, or CHARLM_TRACKING=off to go on "
            f"without: the results are the same, and `{RECORD_LATER}` records them later."
        )


def _remedy(uri: str, problem: str) -> str:
    """What to do about `problem`."""
    known = {
        "uri": shown(uri),
        "host": urlsplit(uri).netloc.rpartition("@")[2],
        "user": os.environ.get("MLFLOW_TRACKING_USERNAME", "you"),
        "experiment": _experiment_name(),
    }
    remedies = [remedy.format(**known) for said, remedy in _REMEDIES.items() if re.search(said, problem)]
    return remedies[0] if remedies else "Mend that."


class TrackingSwitchError(CharlmError):
    """CHARLM_TRACKING is neither on nor off."""

    def __init__(self, value: str) -> None:
        super().__init__(f"CHARLM_TRACKING={value}: expected on or off (on is the default).")


def enabled() -> bool:
    """Whether runs are tracked: CHARLM_TRACKING is not `off`. Raises TrackingSwitchError for another value."""
    value = os.environ.get("CHARLM_TRACKING", "on")
    if value not in ("on", "off"):
        raise TrackingSwitchError(value)
    return value == "on"


def shown(uri: str) -> str:
    """The address of a store as messages show it: without a user and a password in it."""
    return re.sub(r"(?<=://)[^\s'\"]*@", "", uri)


@contextmanager
def telling(uri: str) -> Iterator[None]:
    """Turn what MLflow and the libraries below it raise for a store that fails into TrackingError."""
    try:
        yield
    except failures() as err:
        raise TrackingError(uri, reason(err)) from err


def failures() -> tuple[type[Exception], ...]:
    """What a store that fails can raise."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, CommandError, ImportError, OSError


def reason(err: Exception) -> str:
    """What `err` says of the store, without the statement in SQL and the hints that come after."""
    return shown(str(err).split("\n")[0])


class Store:
    """A client of the store of the project in `root`, and the id of the experiment in it, made if it is not there.

    Raises TrackingError when the store cannot be reached, in about ten seconds, or refuses.
    """

    def __init__(self, root: Path) -> None:
        # MLflow by itself tries seven times, two minutes each.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for a few small files
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it prints the address of each run
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # what fails is raised as well, and told once
        from filelock import FileLock
        from mlflow import MlflowClient

        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
        self.alone: AbstractContextManager[object] = nullcontext()
        """Keeps out the other processes of this project; on a server there is no such thing."""
        if not self.is_server:
            self.alone = FileLock(root / "mlflow.db.lock", timeout=_LOCK_TIMEOUT)
        # Two processes that make the tables of one database at the same time get in each other's way.
        with telling(self.uri), self.alone:
            _reach(self.uri)
            self.client: MlflowClient = MlflowClient(self.uri)
            self.experiment_id = _experiment(self.client, root, self.uri)

    @property
    def is_server(self) -> bool:
        """Whether an MLflow server keeps the store, rather than a database that is opened here."""
        return _is_server(self.uri)

    def runs(self, condition: str = "") -> list["Run"]:
        """All runs of the experiment that fulfil `condition`, in MLflow's language for it, newest first."""
        from mlflow.utils import get_results_from_paginated_fn

        def page(max_results: int, token: str | None) -> "list[Run]":
            order = ["attributes.start_time DESC"]
            found: list[Run] = self.client.search_runs(
                [self.experiment_id], condition, max_results=max_results, order_by=order, page_token=token
            )
            return found

        runs: list[Run] = get_results_from_paginated_fn(page, max_results_per_page=1000)
        return runs

    def create_run(self, origin: str, tags: Mapping[str, str], name: str | None) -> str:
        """Open a run, tagged with its `origin` (trained or restored) and this process; return its id."""
        kind = {"mlflow.source.name": "dvc.yaml", "mlflow.source.type": "PROJECT"}
        own = {ORIGIN_TAG: origin, PROCESS_TAG: provenance.process()}
        with _without_retries():
            run = self.client.create_run(self.experiment_id, run_name=name, tags=kind | own | dict(tags))
        return str(run.info.run_id)

    def abandoned(self) -> list["Run"]:
        """The runs that are still RUNNING although the process of this machine that opened them is gone."""
        running = self.runs("attributes.status = 'RUNNING'")
        return [run for run in running if provenance.is_gone(run.data.tags.get(PROCESS_TAG, ""))]

    def close_abandoned(self, but: Sequence[str] = ()) -> None:
        """Set the runs whose process is gone to KILLED, but those of these ids; tagged, for a record may want one."""
        for run in self.abandoned():
            if run.info.run_id not in but:
                self.client.set_tag(run.info.run_id, ABANDONED_TAG, "true")
                self.client.set_terminated(run.info.run_id, "KILLED")


@contextmanager
def _without_retries() -> Iterator[None]:
    """Send each request once: MLflow repeats one whose answer was lost, and a repeated create_run opens another run."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ[name]
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ[name] = before


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def _reach(uri: str) -> None:
    """Raise one of `failures` when nothing answers at `uri`; MLflow itself would try again for minutes."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request
    from sqlalchemy import create_engine

    if not _is_server(uri):
        with create_engine(uri).connect():
            return
    server = get_default_host_creds(uri)
    http_request(server, "/health", "GET", max_retries=0, timeout=_FIRST_ANSWER, raise_on_status=False)


def _experiment(client: "MlflowClient", root: Path, uri: str) -> str:
    """The id of the experiment, made if it is not there, also when another process makes it at the same time."""
    from mlflow.exceptions import MlflowException

    name = _experiment_name()
    # A server keeps artifacts where it decides; a database that we open ourselves leaves that to us.
    artifacts = None if _is_server(uri) else (root / "mlartifacts").as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, artifact_location=artifacts, tags=kind))
        except MlflowException as err:
            if err.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
            assert found is not None
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            uri,
            f"its experiment {name} is deleted. `mlflow experiments restore -x {found.experiment_id}` brings it "
            "back, MLFLOW_EXPERIMENT_NAME names another.",
        )
    _require_place(uri, found.artifact_location, root)
    return str(found.experiment_id)


def _require_place(uri: str, location: str, root: Path) -> None:
    """Raise TrackingError for a store whose artifacts are not on record where they are.

    MLflow keeps absolute paths: a project's folder that was moved takes its artifacts away from their record, and a
    copy would write into the original. A store that is named has its artifacts where whoever made it wanted them.
    """
    address = urlsplit(location)
    folder = Path(unquote(address.path))
    own = "MLFLOW_TRACKING_URI" not in os.environ
    moved = folder.resolve() != (root / "mlartifacts").resolve() if own else not folder.parent.is_dir()
    if address.scheme in ("", "file") and moved:
        raise TrackingError(
            uri,
            f"its artifacts are on record in {folder}: was the project's folder moved, or copied?\n"
            f"Move it back, or write the new place into the store (docs/server.md, Moving the project's folder).",
        )
