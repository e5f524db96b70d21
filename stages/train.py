"""Train the model, and log the run live as it happens."""

import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from charlm.config import Params, TrainParams, flatten, load_params, project_root
from charlm.files import sha256, write_text
from charlm.models import checkpoint, trainable_class
from charlm.random import generator
from charlm.text.corpus import Split
from charlm.text.vocabulary import Vocabulary
from charlm.tracking.live import LiveRun, live_run
from charlm.training import history, processes
from charlm.training.device import DTYPES, resolve_device
from charlm.training.loop import train
from stages import code_digests, require_unchanged, stage


@stage
def main(prepare: Path, out: Path) -> None:
    processes.relaunch("stages.train", [str(prepare), str(out)])
    code = code_digests()
    first = processes.rank() == 0
    if first:  # a terminated training run ends as an interrupted one
        for stop, handler in ((signal.SIGTERM, processes.terminated), (signal.SIGHUP, signal.default_int_handler)):
            if signal.getsignal(stop) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(stop, handler)
    else:  # the first one reports it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    params = load_params()
    if "OMP_NUM_THREADS" not in os.environ and not trainable_class(params.model.name).threaded:
        torch.set_num_threads(1)
    settings = flatten(params, "model", "train")
    with live_run(project_root(), settings, warn=_warn, tracked=first) as run, _undisturbed_end():
        _train(params, prepare, out, run, code)
        require_unchanged(code)
        run.finish(out / "model.safetensors")


@contextmanager
def _undisturbed_end() -> Iterator[None]:
    """Once the block has failed, let SIGTERM pass: a launcher sends it then, and the run is still to be closed."""
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise


def _train(params: Params, prepare: Path, out: Path, run: LiveRun, code: Mapping[Path, str]) -> None:
    """Train on what `prepare` has; the first process tells `run`, and leaves history and checkpoint in `out`."""
    vocabulary = Vocabulary.load(prepare / "vocabulary.json")
    splits = tuple(Split.load(prepare / f"{name}.npy", len(vocabulary)) for name in ("train", "test"))
    settings, name, seed = params.model.settings.model_dump(), params.model.name, params.train.seed
    device = resolve_device(params.train.device, params.train.dtype)
    weights = generator(seed, "weights")
    model = trainable_class(name).initial(len(vocabulary), params.train.block_size, weights, **settings)
    model = model.to(device, DTYPES[params.train.dtype])
    micro_batches = params.train.gradient_accumulation_steps
    with processes.joined(device, micro_batches, lambda: _agreed(params, prepare, device, code)) as joined:
        points = train(model, splits, params.train, generator(seed, "batches"), processes=joined)
        if processes.rank() == 0:
            write_text(out / "history.csv", history.to_csv(_shown(points, params.train, run)))
            checkpoint.save(out / "model.safetensors", model, name, settings, vocabulary)
        else:
            deque(points, maxlen=0)  # the same course, for which the others need this process


def _agreed(params: Params, prepare: Path, device: torch.device, code: Mapping[Path, str]) -> dict[str, str]:
    """What makes the result, by what a person calls it."""
    return {
        "params.yaml": str(flatten(params, "model", "train")),
        "the code": str(sorted((str(file.relative_to(Path.cwd())), digest) for file, digest in code.items())),
        "the prepared text": str([sha256(prepare / name) for name in ("vocabulary.json", "train.npy", "test.npy")]),
        "the version of PyTorch": torch.__version__,
        "the device": device.type,
    }


def _shown(points: Iterable[history.Point], settings: TrainParams, run: LiveRun) -> Iterator[history.Point]:
    """`points` as they come, each logged to `run` and shown on a progress bar with step, loss and rate."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    tokens = settings.gradient_accumulation_steps * settings.batch_size * settings.block_size  # of an iteration
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("train", total=settings.max_iters, state="")
        step, before = 0, time.perf_counter()
        for point in points:
            now = time.perf_counter()
            rate = (point.step - step) / (now - before)  # iterations a second
            run.log(point, rate * tokens if point.step else None)
            progress.update(bar, completed=point.step, state=f"test loss {point.test_loss:.4f} · {rate:,.0f} it/s")
            step, before = point.step, now
            yield point


def _warn(message: str) -> None:
    click.secho(message, err=True, fg="yellow")


if __name__ == "__main__":
    main()
