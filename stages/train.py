"""Train the model, and log the run live as it happens."""

import math
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from charlm.config import Params, TrainParams, flatten, load_params, project_root
from charlm.files import sha256, write_text
from charlm.models import trainable_class
from charlm.tracking.live import LiveRun, live_run
from charlm.training import history, launcher
from stages import code_digests, require_unchanged, stage

if TYPE_CHECKING:
    from charlm.training.resume import State, Unfinished


@stage
def main(prepare: Path, out: Path) -> None:
    launcher.relaunch("stages.train", [str(prepare), str(out)])
    with live_run(project_root(), warn=_warn, tracked=launcher.rank() == 0) as run:
        import torch  # not before: it takes seconds, in which the run's own process imports MLflow

        code = code_digests()
        params = load_params()
        if "OMP_NUM_THREADS" not in os.environ and not trainable_class(params.model.name).threaded:
            torch.set_num_threads(1)
        launcher.require_even_shares(params.train.gradient_accumulation_steps)
        run.begin(flatten(params, "model", "train"))
        with _interruptible():
            _train(params, prepare, out, run, code)
            require_unchanged(code)
            run.finish(out / "model.safetensors")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt the block as SIGINT does; all but process 0, which reports it, just end.

    After a failure SIGTERM is ignored: a launcher sends it then, and the run has yet to be closed.
    """
    if launcher.rank():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    else:
        signal.signal(signal.SIGTERM, launcher.terminated)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise


def _train(params: Params, prepare: Path, out: Path, run: LiveRun, code: Mapping[Path, str]) -> None:
    """Train on what `prepare` has; the first process logs to `run` and writes history and checkpoint to `out`."""
    from charlm.models import checkpoint
    from charlm.random import generator
    from charlm.text.corpus import load_splits
    from charlm.text.vocabulary import Vocabulary
    from charlm.training import processes
    from charlm.training.device import resolve_device
    from charlm.training.loop import train
    from charlm.training.resume import Unfinished

    vocabulary = Vocabulary.load(prepare / "vocabulary.json")
    splits = load_splits(prepare, len(vocabulary))
    settings, name, seed = params.model.settings.model_dump(), params.model.name, params.train.seed
    device = resolve_device(params.train.device, params.train.precision)
    weights = generator(seed, "weights")
    model = (
        trainable_class(name)
        .initial(len(vocabulary), params.train.block_size, weights, params.train.precision, **settings)
        .to(device)
    )
    run.measure(model)
    decisive = _decisive(params, prepare, device.type, code)
    unfinished = Unfinished(project_root(), decisive)
    state, start = _resume(unfinished, run)
    agreed = decisive | {"the step to resume from (.charlm/unfinished)": str(start)}
    with processes.joined(device, lambda: agreed) as joined:
        first = launcher.rank() == 0
        save = unfinished.save if launcher.local_rank() == 0 else None
        columns = (BarColumn(12), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[state]}"))
        with Progress(*columns, console=Console(stderr=True), disable=not first) as progress:
            bar = _Bar(progress, params.train, start)
            on_step = bar.advance if first else None
            batches = generator(seed, "batches")
            points = train(
                model, splits, params.train, batches, processes=joined, state=state, save=save, on_step=on_step
            )
            if first:
                write_text(out / "history.csv", history.to_csv(bar.logged(points, run)))
                checkpoint.save(out / "model.safetensors", model, name, settings, vocabulary)
            else:
                deque(points, maxlen=0)  # the others need this process for the same steps
    unfinished.remove()


def _resume(unfinished: "Unfinished", run: LiveRun) -> "tuple[State | None, int]":
    """The state to go on from, and its step; 0 without one."""
    state = unfinished.load()
    message = ""
    if state is not None:
        run.resume(state.step)
        message = f"Resuming after step {state.step}, where a run with these parameters, text and code was cut off."
    elif others := unfinished.others():
        message = (
            f"Not resuming: the {len(others)} unfinished training runs in {unfinished.path.parent} are of other "
            "parameters, text, code or packages. Delete that folder if you want none of them."
        )
    if message and launcher.rank() == 0:
        _warn(message)
    return state, state.step if state else 0


def _decisive(params: Params, prepare: Path, device: str, code: Mapping[Path, str]) -> dict[str, str]:
    """All that decides the result, by what a person calls it."""
    return {
        "params.yaml": str(flatten(params, "model", "train")),
        "the code": str(sorted((str(file.relative_to(Path.cwd())), digest) for file, digest in code.items())),
        "the prepared text": str([sha256(prepare / name) for name in ("vocabulary.json", "train.npy", "test.npy")]),
        "the versions of PyTorch and NumPy": f"{version('torch')}, {version('numpy')}",
        "the device": device,
    }


class _Bar:
    """The progress bar, at most 80 columns wide: steps, time left, latest losses and tokens per second."""

    def __init__(self, progress: Progress, settings: TrainParams, start: int) -> None:
        self._progress, self._start = progress, start
        self._tokens = settings.gradient_accumulation_steps * settings.batch_size * settings.block_size  # of a step
        self._task = progress.add_task("train", total=settings.max_iters, state="")
        self._test_loss = math.nan
        self._step, self._time = 0, time.perf_counter()  # of the last point
        self._due = 0.0

    def advance(self, step: int, batch_loss: float) -> None:
        """Show the `batch_loss` of a step, at most ten times a second."""
        now = time.perf_counter()
        if now >= self._due:
            self._due = now + 0.1
            self._show(step, f"batch {batch_loss:.4f}", self._speed(step, now))

    def logged(self, points: Iterable[history.Point], run: LiveRun) -> Iterator[history.Point]:
        """`points` as they come, each logged to `run` and shown."""
        for point in points:
            now = time.perf_counter()
            speed = self._speed(point.step, now) if point.step > self._start else None
            run.log(point, speed)
            self._test_loss = point.test_loss
            self._show(point.step, "", speed)
            self._step, self._time = point.step, now
            yield point

    def _speed(self, step: int, now: float) -> float:
        """Tokens a second since the last point."""
        return (step - self._step) * self._tokens / (now - self._time)

    def _show(self, step: int, batch_loss: str, speed: float | None) -> None:
        shown = [f"test {self._test_loss:.4f}", batch_loss, f"{speed:,.0f} tokens/s" if speed else ""]
        self._progress.update(self._task, completed=step, state=" · ".join(filter(None, shown)))


def _warn(message: str) -> None:
    click.secho(message, err=True, fg="yellow")


if __name__ == "__main__":
    main()
