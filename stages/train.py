"""Train the model, and log the training live as it happens."""

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

from charlm import sources
from charlm.config import Params, TrainParams, flatten, load_params, project_root
from charlm.files import sha256, write_text
from charlm.models.bigram import MODELS
from charlm.models.checkpoint import save_checkpoint
from charlm.random import seeded_generator
from charlm.text.corpus import load_tokens
from charlm.text.vocabulary import Vocabulary
from charlm.tracking.live import LiveRun, live_run
from charlm.training import history
from charlm.training import processes as distributed
from charlm.training.loop import DTYPES, resolve_device, train


@click.command(help=__doc__)
@click.argument("prepare", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(prepare: Path, out: Path) -> None:
    distributed.relaunch("stages.train", [str(prepare), str(out)])
    with distributed.told_once():
        _main(prepare, out)


def _main(prepare: Path, out: Path) -> None:
    code = sources.digests()
    first = distributed.rank() == 0
    if first:  # a terminated training ends as an interrupted one
        for stop, handler in ((signal.SIGTERM, distributed.terminated), (signal.SIGHUP, signal.default_int_handler)):
            if signal.getsignal(stop) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(stop, handler)
    else:  # the first one tells of it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if "OMP_NUM_THREADS" not in os.environ:
        # Threads that share a table this small wait for each other: ten times slower on a busy machine of two cores.
        torch.set_num_threads(1)
    params = load_params()
    settings = flatten(model=params.model, train=params.train)
    with live_run(project_root(), settings, warn=_warn, tracked=first) as run, _undisturbed_end():
        _train(params, prepare, out, run, code)
        sources.require_unchanged(code)
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
    """Train on what `prepare` holds; the first process tells `run`, and leaves history and checkpoint in `out`."""
    vocabulary = Vocabulary.load(prepare / "vocabulary.json")
    device = resolve_device(params.train.device, params.train.dtype)
    generator = seeded_generator(params.train.seed, "weights")
    model = MODELS[params.model.name](len(vocabulary), generator=generator, dtype=DTYPES[params.train.dtype])
    corpus = load_tokens(prepare / "train.npy"), load_tokens(prepare / "test.npy")
    batches = seeded_generator(params.train.seed, "batches")
    with distributed.shared(device, lambda: _agreed(params, prepare, device, code)) as processes:
        points = train(model.to(device), *corpus, params.train, batches, processes=processes)
        if distributed.rank() == 0:
            write_text(out / "history.csv", history.to_csv(_shown(points, params.train, run)))
            save_checkpoint(out / "model.safetensors", model, params.model.name, vocabulary)
        else:
            deque(points, maxlen=0)  # the same course, for which the others need this process


def _agreed(params: Params, prepare: Path, device: torch.device, code: Mapping[Path, str]) -> dict[str, str]:
    """What makes the result, by what a person calls it."""
    return {
        "params.yaml": str(flatten(model=params.model, train=params.train)),
        "the code": str(sorted((str(file.relative_to(Path.cwd())), digest) for file, digest in code.items())),
        "the prepared text": str([sha256(prepare / name) for name in ("vocabulary.json", "train.npy", "test.npy")]),
        "the version of PyTorch": torch.__version__,
        "the device": device.type,
    }


def _shown(points: Iterable[history.Point], settings: TrainParams, run: LiveRun) -> Iterator[history.Point]:
    """`points` as they come, each told to `run` and to a progress bar with step, loss and rate."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("train", total=settings.max_iters, state="")
        step, before = 0, time.perf_counter()
        for point in points:
            now = time.perf_counter()
            rate = (point.step - step) / (now - before)  # iterations a second
            run.log(point, rate * settings.batch_size * settings.block_size if point.step else None)
            progress.update(bar, completed=point.step, state=f"test loss {point.test_loss:.4f} · {rate:,.0f} it/s")
            step, before = point.step, now
            yield point


def _warn(message: str) -> None:
    click.secho(message, err=True, fg="yellow")


if __name__ == "__main__":
    main()
