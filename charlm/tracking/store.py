"""An MLflow store and the experiment in it: opened, or an error that says why not and what to do."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from charlm.config import address, project_root, sqlite_address
from charlm.errors import CharlmError, without_password
from charlm.files import atomic_write
from charlm.tracking.process import has_ended, process

if TYPE_CHECKING:
    from mlflow.entities import Run

EXPERIMENT = "charlm"
CHECKPOINT_TAG = "charlm.checkpoint_sha256"
RESULTS_TAG = "charlm.results_sha256"
ORIGIN_TAG = "charlm.origin"
PROCESS_TAG = "charlm.process"
ABANDONED_TAG = "charlm.abandoned"
NOTE_TAG = "mlflow.note.content"
RECORD_LATER = "dvc repro --force --single-item record"
"""Records a result that is under data/ already."""
WITHOUT = f"CHARLM_TRACKING=off to go on without: the results are the same, and `{RECORD_LATER}` records them later."
"""The end of a sentence about what to set."""
OTHER_KIND = "it is neither a database nor a server."
BATCH = 1000
"""MLflow's limit on the metrics of one log_batch."""
_FIRST_ANSWER = 8.0  # seconds for a server's first answer
_LOCK_TIMEOUT = 60.0  # seconds; creating the tables takes longest
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # MLflow's defaults are seven attempts of two minutes each
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # for a few small files
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it prints the address of each run
    "MLFLOW_DISABLE_TELEMETRY": "true",  # read when mlflow is imported
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # failures are raised as well, and need no second report
}
_REMEDIES = {
    OTHER_KIND: (
        "Expected sqlite:///mlflow.db, postgresql+psycopg2://…, mysql+pymysql://…, http://… or https://….\n"
        "`mlflow migrate-filestore --source mlruns --target sqlite:///mlflow.db` makes a database of a folder of files."
    ),
    "You are not authenticated": (
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user that the server knows."
    ),
    "(registered-models|model-versions).*error code 403": (
        "Ask its owner or an administrator to let {user} write to the registered model charlm."
    ),
    "error code 403.*Permission denied": (
        "Ask its owner or an administrator to let {user} write to the experiment {experiment}."
    ),
    "ProxyError": "Correct HTTP_PROXY or HTTPS_PROXY: that proxy does not answer. Or add the server to NO_PROXY.",
    "not in a valid JSON format": (
        "What answers there is a web page: a login, or MLflow's own if the address is that of a page. "
        "Set MLFLOW_TRACKING_URI to the server alone, such as http://host:5000."
    ),
    "Max retries exceeded|timed out": "Check that the address is right and the server runs.",
    "Invalid Host header": "Ask its administrator to add {host} to --allowed-hosts.",
    "out-of-date database schema|locate revision": (
        "Its tables are of another MLflow version. If it is older, keep a copy, then mlflow db upgrade {uri}. "
        "If it is newer, install that MLflow."
    ),
    "readonly database|Read-only|Permission denied:|unable to open database": (
        "It cannot be written to: change the permissions of the file and its folder."
    ),
    "disk is full|No space left|disk I/O error": "The disk is full or failing: free some space.",
    "No Experiment with id|Invalid experiment ID": "Unset MLFLOW_EXPERIMENT_ID, or set it to the id of an experiment.",
    "database is locked": "Another process has locked it: wait for that process, or end it.",
}
"""What to do, by what the store reports; the first match counts."""


def store_error(uri: str, problem: str) -> CharlmError:
    """The error for a store that cannot be used, with what to do about a known problem."""
    return CharlmError(
        f"MLflow cannot use its store {without_password(uri)}: {without_password(problem)}",
        _remedy(uri, problem),
        f"Or set MLFLOW_TRACKING_URI to another store, or {WITHOUT}",
    )


def _remedy(uri: str, problem: str) -> str:
    """What to do about `problem`; nothing if it is not a known one."""
    known = {
        "uri": without_password(uri),
        "host": urlsplit(uri).netloc.rpartition("@")[2],
        "user": os.environ.get("MLFLOW_TRACKING_USERNAME") or "you",
        "experiment": _experiment_name(),
    }
    return next((remedy.format(**known) for said, remedy in _REMEDIES.items() if re.search(said, problem)), "")


def enabled() -> bool:
    """Whether runs are tracked: CHARLM_TRACKING is not `off`. CharlmError if it is neither that nor `on`."""
    value = os.environ.get("CHARLM_TRACKING") or "on"
    if value not in ("on", "off"):
        raise CharlmError(f"CHARLM_TRACKING={value}: expected on or off (on is the default).")
    return value == "on"


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow and the libraries under it raise for a failing store into a CharlmError."""
    try:
        yield
    except failures() as err:
        raise store_error(uri, reason(err)) from err


def failures() -> tuple[type[Exception], ...]:
    """What a failing store can raise."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, CommandError, ImportError, OSError


def reason(err: Exception) -> str:
    """What `err` reports, complete; for a known problem without SQLAlchemy's statement or a page's HTML at the end."""
    text = str(err)
    return without_password(re.split(r"\n\[SQL: | Response body: '<", text)[0] if _remedy("", text) else text)


@contextmanager
def set_environ(name: str, value: str) -> Iterator[None]:
    """Set the environment variable `name` to `value` in the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def project_store() -> "Store":
    """The store of the project here; outside of any, the one that MLFLOW_TRACKING_URI names, to read from."""
    try:
        root = project_root()
    except CharlmError as err:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            fix = "Go to the folder of the project, or set MLFLOW_TRACKING_URI to a store."
            raise CharlmError(err.found, fix=fix) from err
        root = None
    return Store(root)


class Store:
    """A client of the store of the project in `root`, and the id of the experiment in it, created if needed.

    Without a project nothing is created: not the experiment, not the file of a database.

    Raises CharlmError if the store cannot be reached in about ten seconds, or refuses.
    """

    def __init__(self, root: Path | None) -> None:
        for name, value in _SETTINGS.items():
            os.environ[name] = os.environ.get(name) or value
        from filelock import FileLock
        from mlflow import MlflowClient

        here = root or Path.cwd()
        own = sqlite_address("sqlite:///mlflow.db", here)
        self.uri = address("MLFLOW_TRACKING_URI", here) or own
        self.registry_uri = address("MLFLOW_REGISTRY_URI", here) or self.uri
        self.address = without_password(self.uri)
        """The URI as messages show it."""
        self._artifacts = root / "mlartifacts" if root and self.uri == own else None
        self.alone: AbstractContextManager[object] = nullcontext()
        """Keeps out the other processes of this project; a server needs no such lock."""
        self.is_server = urlsplit(self.uri).scheme in ("http", "https")
        """Whether the store is behind an MLflow server, not a database that is opened here."""
        if root and not self.is_server:
            self.alone = FileLock(root / "mlflow.db.lock", timeout=_LOCK_TIMEOUT)
        # Two processes that create the tables of one database at the same time fail.
        with store_errors(self.uri), self.alone:
            self._reach(create=root is not None)
            _create(self.uri)
            self.client = MlflowClient(self.uri, self.registry_uri)
            self.experiment_id = self._experiment(root)

    def _reach(self, *, create: bool) -> None:
        """Raise one of `failures` if nothing answers, CharlmError if `uri` is of no kind that charlm uses.

        MLflow itself would try for minutes.
        """
        from mlflow.store.db.db_types import DATABASE_ENGINES
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request
        from sqlalchemy import create_engine

        if not self.is_server:
            if urlsplit(self.uri).scheme.partition("+")[0] not in DATABASE_ENGINES:
                raise store_error(self.uri, OTHER_KIND)
            engine = create_engine(self.uri)
            if not create and engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
                raise store_error(self.uri, f"there is no file {engine.url.database}.")
            with engine.connect():
                return
        server = get_default_host_creds(self.uri)
        http_request(server, "/health", "GET", max_retries=0, timeout=_FIRST_ANSWER, raise_on_status=False)

    def _experiment(self, root: Path | None) -> str:
        """The id of the experiment, created if needed, even if another process creates it at the same time."""
        from mlflow.exceptions import MlflowException

        name, number = _experiment_name(), os.environ.get("MLFLOW_EXPERIMENT_ID")
        found = self.client.get_experiment(number) if number else self.client.get_experiment_by_name(name)
        if number and found and found.name != (os.environ.get("MLFLOW_EXPERIMENT_NAME") or found.name):
            raise store_error(self.uri, f"its experiment {number} is {found.name}, but MLFLOW_EXPERIMENT_NAME={name}.")
        if found is None:
            if root is None:
                raise store_error(self.uri, f"it has no experiment {name}; MLFLOW_EXPERIMENT_NAME chooses another.")
            # A server decides where its artifacts are; for a database that we open, we do.
            artifacts = None if self.is_server else (root / "mlartifacts").as_uri()
            try:
                kind = {"mlflow.experimentKind": "custom_model_development"}
                return str(self.client.create_experiment(name, artifact_location=artifacts, tags=kind))
            except MlflowException as err:
                if err.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
                assert found is not None
        if found.lifecycle_stage == "deleted":
            restore = f"`mlflow experiments restore -x {found.experiment_id}` restores it"
            raise store_error(
                self.uri,
                f"its experiment {found.name} is deleted. {restore}, or MLFLOW_EXPERIMENT_NAME chooses another.",
            )
        _require_artifacts(self.uri, found.artifact_location, self._artifacts)
        return str(found.experiment_id)

    def runs(self, condition: str = "") -> list["Run"]:
        """All runs of the experiment that fulfil `condition`, an MLflow filter string; newest first."""
        from mlflow.utils import get_results_from_paginated_fn

        newest_first = ["attributes.start_time DESC"]
        search = partial(self.client.search_runs, [self.experiment_id], condition, order_by=newest_first)
        runs: list[Run] = get_results_from_paginated_fn(lambda n, token: search(max_results=n, page_token=token), 1000)
        return runs

    def create_run(self, origin: str, tags: Mapping[str, str], name: str | None) -> str:
        """Open a run, tagged with its `origin` (trained or restored) and this process; return its id."""
        kind = {"mlflow.source.name": "dvc.yaml", "mlflow.source.type": "PROJECT"}
        own = {ORIGIN_TAG: origin, PROCESS_TAG: process()}
        personal = own_tags()
        # MLflow repeats a request whose answer was lost, which would open a second run.
        with set_environ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"):
            run = self.client.create_run(self.experiment_id, run_name=name, tags=personal | kind | own | dict(tags))
        return str(run.info.run_id)

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Let MLflow look up models:/... here in the block: it takes the store from the environment, not the client."""
        names = ("MLFLOW_TRACKING_URI", self.uri), ("MLFLOW_REGISTRY_URI", self.registry_uri)
        with set_environ(*names[0]), set_environ(*names[1]):
            yield

    def abandoned(self) -> list["Run"]:
        """The runs still RUNNING although the process that kept them, on this machine, has ended: after a power cut."""
        running = self.runs("attributes.status = 'RUNNING'")
        return [run for run in running if has_ended(run.data.tags.get(PROCESS_TAG, ""))]

    def close_abandoned(self, but: Sequence[str] = ()) -> None:
        """Set the abandoned runs to KILLED, except those with an id in `but`; the tag lets a record find one again."""
        for run in self.abandoned():
            if run.info.run_id not in but:
                self.client.set_tag(run.info.run_id, ABANDONED_TAG, "true")
                self.client.set_terminated(run.info.run_id, "KILLED")


def _create(uri: str) -> None:
    """Make MLflow's tables if `uri` is a SQLite file that is empty: all of them or none.

    MLflow makes them in 70 transactions, and SQLite waits for the disk after each: seconds, if the disk is busy. Here
    it does not: the first transaction after the file is in its place waits for all of it.
    """
    from mlflow import MlflowClient
    from sqlalchemy import event, make_url
    from sqlalchemy.engine import Engine

    path = Path(make_url(uri).database or "")
    if not (uri.startswith("sqlite") and path.is_file() and path.stat().st_size == 0):
        return

    def without_waiting(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", without_waiting)
    try:
        # Without a pool no connection to the temporary file stays open.
        with set_environ("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool"), atomic_write(path) as temporary:
            MlflowClient(sqlite_address(f"sqlite:///{path.name}", temporary.parent))
    finally:
        event.remove(Engine, "connect", without_waiting)


def own_tags() -> dict[str, str]:
    """The tags that a person gives to runs in MLFLOW_RUN_CONTEXT, MLflow's variable; CharlmError if it is no object."""
    text = os.environ.get("MLFLOW_RUN_CONTEXT") or "{}"
    try:
        return {str(key): str(value) for key, value in json.loads(text).items()}
    except (ValueError, AttributeError) as err:
        expected = """Expected a JSON object of tags: '{"team": "north"}'."""
        raise CharlmError(f"MLFLOW_RUN_CONTEXT={text}: not usable ({err}).", expected) from err


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def _require_artifacts(uri: str, location: str, own: Path | None) -> None:
    """Raise CharlmError if the artifacts are not where the store says: beside `own`, that of a project's own store.

    MLflow stores absolute paths: after a move the store points to the old place, and a copy would write into the
    original. In any other store, artifacts may be in any folder that exists.
    """
    place = urlsplit(location)
    folder = Path(unquote(place.path))
    moved = not (folder.resolve().is_relative_to(own.resolve().parent) if own else folder.parent.is_dir())
    if place.scheme in ("", "file") and moved:
        raise store_error(
            uri,
            f"its artifacts are on record in {folder}: was the project's folder moved or copied?\n"
            "Move it back, or write the new place into the store (docs/server.md, Moving the project's folder).",
        )
