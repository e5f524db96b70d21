"""The record of what happened, in MLflow: the only module that imports mlflow.

Training opens a run and logs to it live, as well as it can (`live_run`). The record makes the run complete, found
again by the digest of the checkpoint, and changes nothing in one that is (`record`); what a complete run holds is
not decided here but given to it as a `Content`.
Everything goes through MlflowClient by run id: re-opening a run would set it RUNNING again.

It decides no result: with CHARLM_TRACKING=off, or with the store lost, every file comes out the same.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from charlm import provenance
from charlm.errors import CharlmError
from charlm.files import sha256
from charlm.history import Point
from charlm.provenance import COMMIT_TAG

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run

EXPERIMENT = "charlm"
CHECKPOINT_TAG = "charlm.checkpoint_sha256"
RESULTS_TAG = "charlm.results_sha256"
ORIGIN_TAG = "charlm.origin"
NOTE_TAG = "mlflow.note.content"
REPRODUCED_TAG = "charlm.reproduced"
RECORD_LATER = "dvc repro --force --single-item record"
"""What records a result that stands below data/ already."""
PATIENCE = 30.0
"""Seconds that a training waits at its end for a tracker that is slow; SQLite waits 20 for one that is locked."""
_BATCH = 1000  # MLflow's limit on the metrics of one log_batch


class TrackingError(CharlmError):
    """The store cannot be used."""

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__(
            f"MLflow cannot use its store {uri}: {problem}\n"
            "Mend that, set MLFLOW_TRACKING_URI to another store, or CHARLM_TRACKING=off to go on without: the results "
            f"are the same, and `{RECORD_LATER}` records them later."
        )


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


@contextmanager
def _telling(uri: str) -> Iterator[None]:
    """Turn what MLflow and the libraries below it raise for a store that fails into TrackingError."""
    try:
        yield
    except _failures() as err:
        raise TrackingError(uri, str(err)) from err


def _failures() -> tuple[type[Exception], ...]:
    """What a store that fails can raise."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, CommandError, OSError


class Store:
    """A client of the store of the project in `root`, and the id of the experiment in it, made if it is not there.

    Raises TrackingError when the store cannot be reached, in about ten seconds, or refuses.
    """

    def __init__(self, root: Path) -> None:
        # MLflow by itself tries seven times, two minutes each.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for a few small files
        from filelock import FileLock
        from mlflow import MlflowClient

        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
        # Two processes that make the tables of one database at the same time get in each other's way.
        alone = nullcontext() if self.is_server else FileLock(root / "mlflow.db.lock")
        with _telling(self.uri), alone:
            self.client: MlflowClient = MlflowClient(self.uri)
            self.experiment_id = _experiment(self.client, root, self.uri)

    @property
    def is_server(self) -> bool:
        """Whether an MLflow server keeps the store, rather than a database that is opened here."""
        return _is_server(self.uri)

    @property
    def runs_page(self) -> str:
        """The part of the UI's address, from `#`, that opens on the experiment's list of runs.

        Without workflowType the UI opens on an overview for generative models, whatever the experiment's kind.
        """
        return f"#/experiments/{self.experiment_id}/runs?workflowType=machine_learning"

    def runs(self, checkpoint_sha256: str) -> list["Run"]:
        """The runs that left the checkpoint of this digest, newest first."""
        return self.client.search_runs(
            [self.experiment_id],
            f"tags.`{CHECKPOINT_TAG}` = '{checkpoint_sha256}'",
            order_by=["attributes.start_time DESC"],
        )

    def create_run(self, tags: Mapping[str, str]) -> str:
        """Open a run, named after the DVC experiment if there is one, and return its id."""
        origin = {"mlflow.source.name": "dvc.yaml", "mlflow.source.type": "PROJECT"}
        run = self.client.create_run(
            self.experiment_id,
            run_name=provenance.experiment_name(),
            tags=origin | provenance.tags() | dict(tags),
        )
        return str(run.info.run_id)


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def _experiment(client: "MlflowClient", root: Path, uri: str) -> str:
    """The id of the experiment, made if it is not there, also when another process makes it at the same time."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
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
    return str(found.experiment_id)


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
    with _telling(store.uri):
        run = _find(store, reference)
    info, commit = run.info, run.data.tags.get(COMMIT_TAG)
    if info.status != "FINISHED":
        raise NoSuchRunError(reference, f"run {info.run_id} is {info.status}, there is no result to make again")
    if CHECKPOINT_TAG not in run.data.tags:
        raise NoSuchRunError(reference, "it is not a run of charlm's, there is nothing to hold a result against")
    if commit is None:
        raise NoSuchRunError(reference, "it was made outside git, its code is not on record")
    with _telling(store.uri):
        store.client.download_artifacts(info.run_id, "", str(folder))
    return RecordedRun(info.run_id, info.run_name, commit, folder)


def _find(store: Store, reference: str) -> "Run":
    """The one run that `reference` means, of all in the experiment, newest first."""
    runs = store.client.search_runs([store.experiment_id], order_by=["attributes.start_time DESC"], max_results=50_000)
    if reference == "latest":
        found = [run for run in runs if CHECKPOINT_TAG in run.data.tags][:1]
    else:
        named = [run for run in runs if run.info.run_name == reference]
        found = named or [run for run in runs if run.info.run_id.startswith(reference)]
    if len(found) == 1:
        return found[0]
    several = ", ".join(f"{run.info.run_id[:12]} ({run.info.run_name})" for run in found[:5])
    raise NoSuchRunError(
        reference, f"{len(found)} runs are meant: {several}" if found else f"no such run in {store.uri}"
    )


def note_reproduced(store: Store, run_id: str, under: str = "") -> str:
    """Tag the run as made again: how many times, when, where and `under` which conditions last; return the text."""
    with _telling(store.uri):
        before = store.client.get_run(run_id).data.tags.get(REPRODUCED_TAG, "0")
        times = int(before.split()[0]) + 1
        when = datetime.now(UTC).isoformat(timespec="seconds")
        where = f"{platform.node()} ({platform.machine()}){under}"
        text = f"{times} time{'s' if times > 1 else ''}, last {when} on {where}"
        store.client.set_tag(run_id, REPRODUCED_TAG, text)
    return text


class LiveRun(Protocol):
    """What a training tells while it runs."""

    def log(self, point: Point, tokens_per_second: float | None) -> None:
        """Take a point of the loss curve, without waiting for the store."""

    def finish(self, checkpoint: Path) -> None:
        """Note that the training has left `checkpoint`."""


class _Untracked:
    """A LiveRun that keeps nothing."""

    def log(self, point: Point, tokens_per_second: float | None) -> None:
        pass

    def finish(self, checkpoint: Path) -> None:
        pass


class _TrackedRun:
    """A LiveRun that sends what it takes to MLflow in a thread of its own, as many metrics at once as there are."""

    def __init__(self, store: Store, params: Mapping[str, Any]) -> None:
        self._client = store.client
        self.run_id = store.create_run({ORIGIN_TAG: "trained"})
        self._client.log_batch(self.run_id, params=_params(params))
        self._origin = provenance.files()
        self._start = time.perf_counter()
        self._tags: dict[str, str] = {}
        self._status = "FAILED"
        self._problem = ""
        self._closed = False
        self._queue: Queue[list[Metric] | None] = Queue()
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def log(self, point: Point, tokens_per_second: float | None) -> None:
        measured = {"time/seconds": time.perf_counter() - self._start, "speed/tokens_per_second": tokens_per_second}
        values = _curve(point) | {key: value for key, value in measured.items() if value is not None}
        self._queue.put(_metrics(values, point.step))

    def finish(self, checkpoint: Path) -> None:
        self._tags[CHECKPOINT_TAG] = sha256(checkpoint)

    def end(self, status: str, error: BaseException | None = None) -> str:
        """Send what is left and close the run; return why that did not work out, or nothing."""
        self._status = status
        if error is not None and str(error):
            self._tags[NOTE_TAG] = str(error)
        self._queue.put(None)
        self._thread.join(PATIENCE)
        return self._problem or ("" if self._closed else "the run could not be closed in time")

    def _log_origin(self) -> None:
        for name, held in self._origin.items():
            _log_bytes(self._client, self.run_id, name, held)

    def _work(self) -> None:
        """Send until the end is in the queue, then close the run. After a failure nothing more but the end is tried."""
        self._try(self._log_origin)
        while (metrics := self._take()) is not None:
            if metrics and not self._problem:
                self._try(partial(self._client.log_batch, self.run_id, metrics=metrics))
        if not self._try(self._close):
            self._try(self._close)

    def _take(self) -> "list[Metric] | None":
        """Whatever is queued, up to MLflow's limit; None at the end."""
        metrics = self._queue.get()
        while metrics is not None and len(metrics) < _BATCH - 10 and not self._queue.empty():
            more = self._queue.get()
            if more is None:
                self._queue.put(None)
                break
            metrics = metrics + more
        return metrics

    def _close(self) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in self._tags.items()])
        self._client.set_terminated(self.run_id, self._status)
        self._closed = True

    def _try(self, call: Callable[[], Any]) -> bool:
        """Whether the store took `call`."""
        try:
            call()
        except _failures() as err:
            self._problem = str(err)
            return False
        return True


@contextmanager
def live_run(root: Path, params: Mapping[str, Any], warn: Callable[[str], None]) -> Iterator[LiveRun]:
    """A run that is FINISHED when the block ends, FAILED when it raises, KILLED when it is interrupted.

    A store that cannot be used before the block is a TrackingError. Once in it, the store never stops the block:
    what it did not take is told to `warn`, and the record adds it. With CHARLM_TRACKING=off nothing is kept.
    """
    if not enabled():
        yield _Untracked()
        return
    store = Store(root)
    with _telling(store.uri):
        run = _TrackedRun(store, params)
    problem = ""
    try:
        yield run
    except KeyboardInterrupt:
        problem = run.end("KILLED")
        raise
    except BaseException as err:
        problem = run.end("FAILED", err)
        raise
    else:
        problem = run.end("FINISHED")
    finally:
        if problem:
            warn(f"MLflow did not take everything: {problem}\nThe record stage makes a complete run of the result.")


@dataclass(frozen=True)
class Part:
    """A part of the text that a run saw: what for (train or test), its SHA-256 digest and the whole text's."""

    purpose: str
    sha256: str
    text_sha256: str


@dataclass(frozen=True)
class Content:
    """All that a complete run holds."""

    checkpoint_sha256: str
    results_sha256: str
    """Of all files of the result: a complete run of another result keeps its own record."""
    params: Mapping[str, Any]
    """By dotted key, of every section."""
    points: Sequence[Point]
    metrics: Mapping[str, float]
    """Final figures by metric name; the losses are the last of `points`."""
    source: str
    """Where the text is from."""
    parts: Sequence[Part]
    files: Mapping[str, Path]
    """By the name of the artifact."""
    texts: dict[str, str]
    """By the name of the artifact; what a run holds of this name stays, whatever stands in it."""
    figures: Mapping[str, "Callable[[], Figure]"]
    """By the name of the artifact, each drawn when it is missing."""
    note: str
    """The run's description, in Markdown."""


def record(root: Path, content: Content) -> list[str]:
    """Make every run that left the checkpoint with these parameters hold `content`; make one if none did.

    Returns their ids, newest first. A second time changes nothing. Raises TrackingError when the store cannot be
    used; a later call then goes on where this one stopped.
    """
    store = Store(root)
    with _telling(store.uri):
        ids = _runs_of(store, content)
        for run_id in ids:
            _complete(store.client, run_id, content)
    return ids


def _runs_of(store: Store, content: Content) -> list[str]:
    """The runs with the checkpoint, no parameter that differs and no other result; a new one if there is none.

    The same checkpoint under other parameters, of the sample say, is another experiment's and keeps its own record; so
    does one whose samples or figures other code has made.
    """
    wanted = {param.key: param.value for param in _params(content.params)}
    runs = store.runs(content.checkpoint_sha256)
    ids = [
        run.info.run_id
        for run in runs
        if run.data.params.items() <= wanted.items()
        and run.data.tags.get(RESULTS_TAG, content.results_sha256) == content.results_sha256
    ]
    return ids or [store.create_run({CHECKPOINT_TAG: content.checkpoint_sha256, ORIGIN_TAG: "restored"})]


def _complete(client: "MlflowClient", run_id: str, content: Content) -> None:
    """Add to the run whatever of `content` it does not hold yet, and close it if it is open."""
    run = client.get_run(run_id)
    if missing := [param for param in _params(content.params) if param.key not in run.data.params]:
        client.log_batch(run_id, params=missing)
    _complete_metrics(client, run, content)
    if not (run.inputs and run.inputs.dataset_inputs):
        client.log_inputs(run_id, datasets=_datasets(content))
    _complete_artifacts(client, run_id, content)
    if NOTE_TAG not in run.data.tags:
        client.set_tag(run_id, NOTE_TAG, content.note)
    if RESULTS_TAG not in run.data.tags:
        client.set_tag(run_id, RESULTS_TAG, content.results_sha256)
    if run.info.status == "RUNNING":
        client.set_terminated(run_id)


def _complete_metrics(client: "MlflowClient", run: "Run", content: Content) -> None:
    """Add the points of the loss curve and the final figures that the run does not hold, or holds otherwise."""
    run_id, last = run.info.run_id, content.points[-1]
    keys = [key for key in _curve(last) if key in run.data.metrics]
    held = {(key, metric.step) for key in keys for metric in client.get_metric_history(run_id, key)}
    curve = [metric for point in content.points for metric in _metrics(_curve(point), point.step)]
    metrics = [metric for metric in curve if (metric.key, metric.step) not in held]
    final = {key: value for key, value in content.metrics.items() if run.data.metrics.get(key) != value}
    metrics += _metrics(final, last.step)
    for first in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + _BATCH])


def _complete_artifacts(client: "MlflowClient", run_id: str, content: Content) -> None:
    """Add the files and pictures that the run does not hold, and the files that it holds otherwise."""
    held = dict(_artifacts(client, run_id))
    for name, path in content.files.items():
        if held.get(name) != path.stat().st_size or not _holds(client, run_id, name, path):
            folder = PurePosixPath(name).parent
            client.log_artifact(run_id, str(path), str(folder) if folder.name else None)
    small = {name: text.encode() for name, text in content.texts.items()}
    if not held.keys() >= provenance.NAMES:
        small |= provenance.files()
    for name in small.keys() - held.keys():
        _log_bytes(client, run_id, name, small[name])
    for name in content.figures.keys() - held.keys():
        client.log_figure(run_id, content.figures[name](), name)


def _log_bytes(client: "MlflowClient", run_id: str, name: str, content: bytes) -> None:
    """Keep `content` as the artifact `name`, at the top of the run's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        client.log_artifact(run_id, str(path))


def _holds(client: "MlflowClient", run_id: str, name: str, path: Path) -> bool:
    """Whether the artifact `name`, as long as the file `path`, is that file; a checkpoint is known by its tag."""
    if path.suffix == ".safetensors":
        return True
    with tempfile.TemporaryDirectory() as folder:
        return sha256(Path(client.download_artifacts(run_id, name, folder))) == sha256(path)


def _artifacts(client: "MlflowClient", run_id: str, folder: str | None = None) -> Iterator[tuple[str, int | None]]:
    """Name and size of every artifact of the run below `folder`."""
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from _artifacts(client, run_id, entry.path)
        else:
            yield entry.path, entry.file_size


def _params(params: Mapping[str, Any]) -> "list[Param]":
    r"""Parameters as MLflow's: readable strings as they are, everything else as JSON (`null`, `0.0003`, `"\n"`)."""
    from mlflow.entities import Param

    return [
        Param(key, value if isinstance(value, str) and value.isprintable() else json.dumps(value))
        for key, value in params.items()
    ]


def _metrics(values: Mapping[str, float], step: int) -> "list[Metric]":
    """Values measured at `step`, as MLflow's, to six decimals as history.csv has them."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(key, round(value, 6), now, step) for key, value in values.items()]


def _curve(point: Point) -> dict[str, float]:
    """The losses of `point` by the names that the UI's charts group them by."""
    values = {"loss/train": point.train_loss, "loss/test": point.test_loss, "loss/batch": point.batch_loss}
    return {key: value for key, value in values.items() if value is not None}


def _datasets(content: Content) -> list[Any]:
    """The parts of the text with where it is from and their digests (MLflow keeps 36 characters of one)."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    address = urlsplit(content.source)
    remote = address.scheme in ("http", "https")
    source = json.dumps({"url" if remote else "uri": content.source})
    inputs = []
    for part in content.parts:
        dataset = Dataset(
            name=f"{PurePosixPath(address.path).stem} {part.purpose}",
            digest=part.sha256[:36],
            source_type="http" if remote else "local",
            source=source,
            profile=json.dumps({"tokens_sha256": part.sha256, "text_sha256": part.text_sha256}),
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", part.purpose)]))
    return inputs
