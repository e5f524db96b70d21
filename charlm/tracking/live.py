"""A training run as it happens, sent to an MLflow run by a process beside it, which never stops the training.

`live_run` starts that process, `python -m charlm.tracking.live ROOT`. It imports MLflow and opens the store while the
training imports PyTorch; the training itself never imports MLflow. It reads JSON lines from its stdin: the first has
the parameters and opens the run, the others have what is new (metrics of a step, tags, text for the log), the last one
the run's status. If the lines end without a status, the training was killed, and the run ends KILLED. On its stdout it
answers twice, when the run is open and when it is closed, with a JSON string: the problem, empty if there is none.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any

from charlm.config import load_params
from charlm.errors import CharlmError
from charlm.files import sha256
from charlm.provenance.code import ENVIRONMENT, PATCH, Origin
from charlm.provenance.environment import Environment
from charlm.tracking.entities import TEXT_TAG, as_metrics, as_params, log_bytes, losses, text_name
from charlm.tracking.store import (
    BATCH,
    CHECKPOINT_TAG,
    NOTE_TAG,
    WITHOUT,
    Store,
    enabled,
    failures,
    reason,
    store_errors,
)
from charlm.training.history import Point

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from charlm.models.base import LanguageModel

RESUMED_TAG = "charlm.resumed_after_step"
LOG = "log.txt"
"""The artifact of a run that did not end well: all it logged, with times, and the error's traceback."""
PATIENCE = 25.0
"""Seconds that a training run waits for a slow store at its end, and that the tracker of a killed one lives on: SQLite
waits 20 for a lock, and torchrun 30 for a run that it ends."""
VANISHED = "The training process ended without a word: it was killed, by SIGKILL or for want of memory."
UNANSWERED = "MLflow's tracker ended without an answer; its own message, if any, is above."
_PAUSE = 1.0  # seconds in which points gather, to be sent in one call
_SYSTEM_INTERVAL = 10.0  # seconds between two samples of the machine; there is also one at the start and at the end

Messages = Queue[dict[str, Any] | None]
"""What the training has sent, and None at the end."""


class LiveRun:
    """What a training run reports to; this one keeps nothing."""

    def begin(self, params: Mapping[str, Any]) -> None:
        """Return when the run is open; CharlmError if the store cannot be used."""

    def resume(self, step: int) -> None:
        """Note that the training goes on after `step`, where an earlier run was cut off."""

    def measure(self, model: "LanguageModel") -> None:
        """Find out what `model` and this machine need to compute a token, for speed/model_flops_utilization."""

    def log(self, point: Point, tokens_per_second: float | None) -> None:
        """Take a point of the loss curve, without waiting for the store."""

    def finish(self, checkpoint: Path) -> None:
        """Note that the training has written `checkpoint`."""


class _TrackedRun(LiveRun):
    """A LiveRun that passes everything on to the tracker, a process started here, without waiting for it."""

    def __init__(self, root: Path) -> None:
        # In a session of its own, a signal to all processes of the training, as by Ctrl-C, leaves it to close the run.
        self._tracker = subprocess.Popen(
            [sys.executable, "-m", __name__, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        assert self._tracker.stdin is not None
        assert self._tracker.stdout is not None
        self._pipe, self._answers = self._tracker.stdin, self._tracker.stdout
        self._unsent = bytearray()
        self._begun = False
        self._start = 0.0
        self._utilization = 0.0  # at one token a second

    def begin(self, params: Mapping[str, Any]) -> None:
        self._send(params=dict(params), environment=Environment.here().to_json())
        self._begun = True
        answer = self._answers.readline()
        if problem := json.loads(answer) if answer else f"{UNANSWERED}\nSet {WITHOUT}":
            self._begun = False
            raise CharlmError(problem)
        os.set_blocking(self._pipe.fileno(), False)
        self._start = time.perf_counter()

    def resume(self, step: int) -> None:
        self._send(tags={RESUMED_TAG: str(step)})

    def measure(self, model: "LanguageModel") -> None:
        if model.hidden_matrices():  # a bigram has no matrix products, and PyTorch's counter takes a second to load
            from charlm.tracking.utilization import utilization_of_a_token

            self._utilization = utilization_of_a_token(model)

    def log(self, point: Point, tokens_per_second: float | None) -> None:
        metrics = losses(point) | {"time/seconds": time.perf_counter() - self._start}
        if tokens_per_second is not None:
            metrics["speed/tokens_per_second"] = tokens_per_second
            if self._utilization:
                metrics["speed/model_flops_utilization"] = tokens_per_second * self._utilization
        self._send(metrics=metrics, step=point.step, log=str(point))

    def finish(self, checkpoint: Path) -> None:
        self._send(tags={CHECKPOINT_TAG: sha256(checkpoint)})

    def end(self, status: str, error: BaseException | None = None) -> str:
        """Let the tracker send what is left and close the run; return why that failed, or nothing."""
        if not self._begun:
            self._tracker.kill()
            self._tracker.communicate()
            return ""
        if error is None:
            self._send(status=status)
        else:
            note, log = str(error) or type(error).__name__, "".join(traceback.format_exception(error))
            self._send(status=status, tags={NOTE_TAG: note}, log=f"{status}\n{log}")
        try:
            answers, _ = self._tracker.communicate(bytes(self._unsent), PATIENCE)
        except subprocess.TimeoutExpired:
            self._tracker.kill()  # it has ended when record looks for a run whose end the store did not take
            self._tracker.communicate()
            return "the run could not be closed in time"
        return json.loads(answers.splitlines()[-1]) if answers else UNANSWERED

    def _send(self, **news: Any) -> None:
        """Write a line to the tracker as far as the pipe has room; what it has no room for goes before the next."""
        self._unsent += json.dumps(news | {"time": time.time()}).encode() + b"\n"
        try:
            del self._unsent[: os.write(self._pipe.fileno(), self._unsent)]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent.clear()


@contextmanager
def live_run(root: Path, warn: Callable[[str], None], *, tracked: bool = True) -> Iterator[LiveRun]:
    """A run that is FINISHED when the block ends, FAILED if it raises, KILLED if it is interrupted.

    It is in the store of the project in `root`. There is none until the block calls `begin`, and from then on the store
    never stops the block: `warn` gets what the store did not take, and the record stage adds it. Nothing is kept if not
    `tracked`, or with CHARLM_TRACKING=off.
    """
    if not (tracked and enabled()):
        yield LiveRun()
        return
    run = _TrackedRun(root)
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


class _Machine:
    """MLflow's own measurements of the machine, not of a process: memory, processor, disk, network, graphics cards."""

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


class _Tracker:
    """The MLflow run of a training: opened with its `first` message, kept by the `messages` after it."""

    def __init__(self, store: Store, first: Mapping[str, Any], messages: Messages) -> None:
        self._client, self._messages = store.client, messages
        origin = Origin.here()
        name, tags = _named()
        self.run_id = store.create_run("trained", origin.tags() | tags, origin.experiment or name)
        self._client.log_batch(self.run_id, params=as_params(first["params"]))
        self._origin = {ENVIRONMENT: first["environment"].encode(), PATCH: origin.patch}
        self._machine = _Machine(self.run_id, store.uri)
        self._log = [f"{_written(first['time'])} {key} = {value}" for key, value in first["params"].items()]
        self._tags: dict[str, str] = {}
        self._status = ""
        self._problem = ""

    def follow(self) -> str:
        """Send what comes until the end, then close the run; return what the store did not take, or nothing.

        After a failure only closing it is tried.
        """
        self._try(self._log_origin)
        self._send(self._machine.sample())
        due = time.monotonic() + self._machine.interval
        while (metrics := self._take(due)) is not None:
            if time.monotonic() >= due:
                metrics += self._machine.sample()
                due = time.monotonic() + self._machine.interval
            self._send(metrics)
        self._send(self._machine.sample())
        if not self._status:
            self._note({"status": "KILLED", "tags": {NOTE_TAG: VANISHED}, "log": VANISHED, "time": time.time()})
        if not self._try(self._close):
            self._try(self._close)
        return self._problem

    def _log_origin(self) -> None:
        for name, content in self._origin.items():
            log_bytes(self._client, self.run_id, name, content)

    def _take(self, due: float) -> "list[Metric] | None":
        """The metrics that come within a second, up to MLflow's limit, or until `due`; None at the end."""
        metrics: list[Metric] = []
        until = min(due, time.monotonic() + _PAUSE)
        with suppress(Empty):
            while len(metrics) < BATCH - 50:  # room for one more point and a sample of the machine
                message = self._messages.get(timeout=max(0.0, until - time.monotonic()))
                if message is None:
                    if not metrics:
                        return None
                    self._messages.put(None)
                    break
                metrics += self._note(message)
        return metrics

    def _note(self, message: Mapping[str, Any]) -> "list[Metric]":
        """Keep what `message` says for the end of the run; return its metrics."""
        self._status = message.get("status", self._status)
        self._tags |= message.get("tags", {})
        if "log" in message:
            self._log.append(f"{_written(message['time'])} {message['log']}")
        return as_metrics(message.get("metrics", {}), message.get("step", 0), int(message["time"] * 1000))

    def _send(self, metrics: "list[Metric]") -> None:
        if metrics and not self._problem:
            self._try(partial(self._client.log_batch, self.run_id, metrics=metrics))

    def _close(self) -> None:
        from mlflow.entities import RunTag

        if self._status != "FINISHED":
            log_bytes(self._client, self.run_id, LOG, "\n".join(self._log).encode())
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in self._tags.items()])
        self._client.set_terminated(self.run_id, self._status)

    def _try(self, call: Callable[[], Any]) -> bool:
        """Whether the store took `call`."""
        try:
            call()
        except failures() as err:
            self._problem = reason(err)
            return False
        return True


def _named() -> tuple[str | None, dict[str, str]]:
    """Name and tag of a run by the text in params.yaml here, which train itself does not read; nothing without one."""
    with suppress(CharlmError):
        params = load_params()
        text = text_name(params.data.source)
        return f"{params.model.name} on {text}", {TEXT_TAG: text}
    return None, {}


def _written(seconds: float) -> str:
    """A time since 1970 as the log has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def track(root: Path, messages: Messages, answer: Callable[[str], None]) -> None:
    """Keep the run of the training that sends `messages`, in the store of the project in `root`.

    `answer` gets the problem, or nothing, when the run is open and when it is closed.
    """
    try:
        store = Store(root)
        if (first := messages.get()) is None:
            return  # the training has ended before there was anything to track
        with store_errors(store.uri):
            store.close_abandoned()
            tracker = _Tracker(store, first, messages)
    except CharlmError as err:
        answer(err.message)
    else:
        answer("")
        answer(tracker.follow())


def _keep(root: Path, messages: Messages) -> None:
    """Keep the run; close stdout even when that fails, for the training waits for an answer, or for its end."""
    try:
        with redirect_stdout(sys.stderr):
            track(root, messages, _answer)
    finally:
        os.close(1)


def _answer(problem: str) -> None:
    with suppress(BrokenPipeError):  # the training was killed
        os.write(1, json.dumps(problem).encode() + b"\n")


def main() -> None:
    """Keep the run of the training at the other end of stdin. Its end alone ends this, at most PATIENCE later."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    gc.set_threshold(10_000)  # as in a stage, see stages/__init__.py
    messages: Messages = Queue()
    keeper = Thread(target=_keep, args=(Path(sys.argv[1]), messages), daemon=True)
    keeper.start()
    for line in sys.stdin:
        if line.endswith("\n"):  # one that is killed may leave half a line
            messages.put(json.loads(line))
    messages.put(None)
    keeper.join(PATIENCE)
    os._exit(0)  # the training waits for it: no time for the interpreter to tidy up after MLflow


if __name__ == "__main__":
    main()
