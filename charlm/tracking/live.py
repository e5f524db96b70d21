"""A training run as it happens: loss, speed and machine, sent to an MLflow run that never stops the training."""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any

from charlm.files import sha256
from charlm.provenance.code import Origin
from charlm.tracking.entities import as_metrics, as_params, log_bytes, losses
from charlm.tracking.store import BATCH, CHECKPOINT_TAG, NOTE_TAG, Store, enabled, failures, reason, store_errors
from charlm.training.history import Point

if TYPE_CHECKING:
    from mlflow.entities import Metric

RESUMED_TAG = "charlm.resumed_after_step"
LOG = "log.txt"
"""The artifact of a run that did not end well: all it logged, with times, and the error's traceback."""
PATIENCE = 25.0
"""Seconds that a training run waits at its end for a slow store: SQLite waits 20 for a lock, and torchrun 30 for a
run that it ends."""
_PAUSE = 1.0  # seconds in which points gather: sent one by one, they would halve the speed of the loop
_SYSTEM_INTERVAL = 10.0  # seconds between two samples of the machine; there is also one at the start and at the end


class LiveRun:
    """What a training run reports to; this one keeps nothing."""

    def resume(self, step: int) -> None:
        """Note that the training goes on after `step`, where an earlier run was cut off."""

    def log(self, point: Point, tokens_per_second: float | None) -> None:
        """Take a point of the loss curve, without waiting for the store."""

    def finish(self, checkpoint: Path) -> None:
        """Note that the training has written `checkpoint`."""


class _Machine:
    """MLflow's own measurements of the machine: memory, processor, disk, network, graphics cards."""

    def __init__(self, run_id: str, uri: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        # Its own thread would query the store before each sample, and take none in a run shorter than the interval.
        self._monitor = SystemMetricsMonitor(run_id, _SYSTEM_INTERVAL, tracking_uri=uri)
        self.interval = float(self._monitor.sampling_interval)
        self._steps = count()

    def sample(self) -> "list[Metric]":
        """Every measurement since the last sample, or since the start."""
        self._monitor.collect_metrics()
        values = {f"system/{name}": value for name, value in self._monitor.aggregate_metrics().items()}
        for monitor in self._monitor.monitors:
            monitor.clear_metrics()
        return as_metrics(values, next(self._steps))


class _TrackedRun(LiveRun):
    """A LiveRun whose thread sends what is logged to MLflow, as many metrics at once as there are."""

    def __init__(self, store: Store, params: Mapping[str, Any]) -> None:
        self._client = store.client
        origin = Origin.here()
        self.run_id = store.create_run("trained", origin.tags(), origin.experiment)
        self._client.log_batch(self.run_id, params=as_params(params))
        self._origin = origin.files()
        self._machine = _Machine(self.run_id, store.uri)
        self._start = time.perf_counter()
        self._log = [f"{_now()} {key} = {value}" for key, value in params.items()]
        self._tags: dict[str, str] = {}
        self._status = "FAILED"
        self._problem = ""
        self._closed = False
        self._queue: Queue[list[Metric] | None] = Queue()
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def resume(self, step: int) -> None:
        self._tags[RESUMED_TAG] = str(step)

    def log(self, point: Point, tokens_per_second: float | None) -> None:
        self._log.append(f"{_now()} {point}")
        measured = {"time/seconds": time.perf_counter() - self._start, "speed/tokens_per_second": tokens_per_second}
        values = losses(point) | {key: value for key, value in measured.items() if value is not None}
        self._queue.put(as_metrics(values, point.step))

    def finish(self, checkpoint: Path) -> None:
        self._tags[CHECKPOINT_TAG] = sha256(checkpoint)

    def end(self, status: str, error: BaseException | None = None) -> str:
        """Send what is left and close the run; return why that failed, or nothing."""
        self._status = status
        if error is not None:
            self._tags[NOTE_TAG] = str(error) or type(error).__name__
            self._log.append(f"{_now()} {status}\n{''.join(traceback.format_exception(error))}")
        self._queue.put(None)
        self._thread.join(PATIENCE)
        return self._problem or ("" if self._closed else "the run could not be closed in time")

    def _work(self) -> None:
        """Send until the end is in the queue, then close the run. After a failure only closing it is tried."""
        self._try(self._log_origin)
        self._send(self._machine.sample())
        due = time.monotonic() + self._machine.interval
        while (metrics := self._take(due)) is not None:
            if time.monotonic() >= due:
                metrics += self._machine.sample()
                due = time.monotonic() + self._machine.interval
            self._send(metrics)
        self._send(self._machine.sample())
        if not self._try(self._close):
            self._try(self._close)

    def _log_origin(self) -> None:
        for name, content in self._origin.items():
            log_bytes(self._client, self.run_id, name, content)

    def _take(self, due: float) -> "list[Metric] | None":
        """What is logged within a second, up to MLflow's limit, or until `due`; None at the end."""
        metrics: list[Metric] = []
        until = min(due, time.monotonic() + _PAUSE)
        with suppress(Empty):
            while len(metrics) < BATCH - 50:  # room for one more point and a sample of the machine
                more = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                if more is None:
                    if not metrics:
                        return None
                    self._queue.put(None)
                    break
                metrics += more
        return metrics

    def _send(self, metrics: "list[Metric]") -> None:
        if metrics and not self._problem:
            self._try(partial(self._client.log_batch, self.run_id, metrics=metrics))

    def _close(self) -> None:
        from mlflow.entities import RunTag

        if self._status != "FINISHED":
            log_bytes(self._client, self.run_id, LOG, "\n".join(self._log).encode())
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in self._tags.items()])
        self._client.set_terminated(self.run_id, self._status)
        self._closed = True

    def _try(self, call: Callable[[], Any]) -> bool:
        """Whether the store took `call`."""
        try:
            call()
        except failures() as err:
            self._problem = reason(err)
            return False
        return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@contextmanager
def live_run(
    root: Path, params: Mapping[str, Any], warn: Callable[[str], None], *, tracked: bool = True
) -> Iterator[LiveRun]:
    """A run that is FINISHED when the block ends, FAILED if it raises, KILLED if it is interrupted.

    A store that cannot be used before the block is a CharlmError. Once inside, the store never stops the block: `warn`
    gets what the store did not take, and the record stage adds it. Nothing is kept if not `tracked`, or with
    CHARLM_TRACKING=off.
    """
    if not (tracked and enabled()):
        yield LiveRun()
        return
    store = Store(root)
    with store_errors(store.uri):
        store.close_abandoned()
        run = _TrackedRun(store, params)
    problem = ""
    try:
        yield run
    except BaseException as err:
        problem = run.end("KILLED" if isinstance(err, KeyboardInterrupt) else "FAILED", err)
        raise
    else:
        problem = run.end("FINISHED")
    finally:
        if problem:
            warn(f"MLflow did not take everything: {problem}\nThe record stage completes the run of the result.")
