"""The parts of the work by themselves, in this process: arrays, encoding, iterations, generation, loss.

Ours runs as the stages run it, the training in one thread; the notebook's runs with PyTorch's own settings.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import notebook, texts
from benchmarks.contest import Aim, Contest, NotMeasuredError, Row, Timed, timed
from benchmarks.scale import Scale
from charlm.config import TrainParams, flatten
from charlm.evaluation import mean_loss
from charlm.models.bigram import BigramLanguageModel
from charlm.random import seeded_generator
from charlm.text.corpus import Tokens, pair_counts
from charlm.text.vocabulary import Vocabulary
from charlm.tracking.live import live_run
from charlm.tracking.store import Store
from charlm.training.loop import DTYPES, train

Contestants = Iterator[Mapping[str, Timed]]
NOTEBOOK, LIGHTNING = "notebook", "Lightning in one thread"


class Book:
    """A text of a book's size as charlm holds it and as the notebook does."""

    def __init__(self, root: Path) -> None:
        text = texts.text(root, "ASCII", texts.BOOK)
        self.vocabulary = Vocabulary.from_text(text)
        self.train, self.test = np.split(self.vocabulary.encode(text), [int(0.8 * len(text))])
        self.data = {name: torch.from_numpy(part.astype(np.int64)) for name, part in self.splits().items()}

    def splits(self) -> dict[str, Tokens]:
        """The tokens of both splits by name."""
        return {"train": self.train, "test": self.test}


def contests(root: Path, scale: Scale) -> list[Contest]:
    """All of this module."""
    book = Book(root)
    return [
        *(_speed_check(device, scale) for device in _devices()),
        _encode("encode-book", "Encode a book, ASCII", Aim(1 / 50), partial(texts.text, root, "ASCII", texts.BOOK)),
        _encode(
            "encode-ascii",
            f"Encode {scale.large / texts.MEGABYTE:g} MB, ASCII",
            Aim(1 / 50),
            partial(texts.text, root, "ASCII", scale.large),
        ),
        _encode(
            "encode-multilingual",
            f"Encode {scale.large / 10 / texts.MEGABYTE:g} MB, multilingual",
            Aim(1 / 20),
            partial(texts.text, root, "multilingual", scale.large // 10),
        ),
        _iteration(book, scale),
        _lightning(book, scale),
        _wide_iteration(book, scale),
        *(_generate(book, 1, length, aim) for length, aim in zip(scale.lengths, (1 / 2, 1 / 20), strict=True)),
        _generate(book, scale.sequences, scale.lengths[0], 1 / 200),
        _exact_loss(book),
        _tracking(book, scale),
    ]


def _devices() -> list[str]:
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [device for device, present in here.items() if present]


def _speed_check(device: str, scale: Scale) -> Contest:
    """The notebook's, which held torch's matrix product against NumPy's elementwise one; here both do both."""
    title = f"on {' × '.join([str(scale.side)] * 4)} float32, {device}"
    rows = (
        Row(f"elementwise-{device}", f"Elementwise product {title}", "call", f"torch {device}, *", "NumPy, *"),
        Row(f"matmul-{device}", f"Matrix product {title}", "call", f"torch {device}, @", "NumPy, @"),
    )

    @contextmanager
    def opened() -> Contestants:
        generator = np.random.default_rng(1337)
        a, b = (generator.random((scale.side,) * 4, dtype=np.float32) for _ in range(2))
        x, y = (torch.from_numpy(array).to(device) for array in (a, b))

        def done(call: Callable[[], torch.Tensor]) -> float:
            return timed(lambda: float(call().ravel()[0]))  # a device is done when it has an answer

        yield {
            f"torch {device}, *": lambda: done(lambda: x * y),
            "NumPy, *": lambda: timed(lambda: a * b),
            f"torch {device}, @": lambda: done(lambda: x @ y),
            "NumPy, @": lambda: timed(lambda: a @ b),
        }

    return Contest(rows, opened)


def _encode(key: str, title: str, aim: Aim, made: Callable[[], str]) -> Contest:
    @contextmanager
    def opened() -> Contestants:
        text = made()
        vocabulary, (string_to_int, _) = Vocabulary.from_text(text), notebook.dictionaries(text)
        yield {
            "charlm": lambda: timed(lambda: vocabulary.encode(text)),
            NOTEBOOK: lambda: timed(lambda: notebook.encode(text, string_to_int)),
        }

    return Contest((Row(key, title, "text", "charlm", NOTEBOOK, aim),), opened)


def _settings(iterations: int, **changes: Any) -> TrainParams:
    """The notebook's settings, with what the notebook does not set, for so many iterations."""
    settings = TrainParams(
        seed=1337,
        block_size=notebook.BLOCK_SIZE,
        batch_size=notebook.BATCH_SIZE,
        max_iters=iterations,
        learning_rate=notebook.LEARNING_RATE,
        weight_decay=0.01,
        eval_interval=notebook.LOG_INTERVAL,
        device="cpu",
        dtype="float64",
    )
    return settings.model_copy(update=changes)


def _ours(book: Book, settings: TrainParams, root: Path, *, tracked: bool = True) -> float:
    """Seconds an iteration of our loop with exact losses, begin and end of its MLflow run, if it has one, included."""
    generator = seeded_generator(settings.seed, "weights")
    model = BigramLanguageModel(len(book.vocabulary), generator=generator, dtype=DTYPES[settings.dtype])
    points = train(model, book.train, book.test, settings, seeded_generator(settings.seed, "batches"))

    def trained() -> None:
        with live_run(root, flatten(train=settings), warn=_refuse, tracked=tracked) as run:
            for point in points:
                run.log(point, 0.0)

    with _one_thread():
        return timed(trained, settings.max_iters)


def _refuse(message: str) -> None:
    raise NotMeasuredError(message)


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch with one thread, as the train stage sets it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _store() -> Iterator[Path]:
    """A folder with an empty MLflow store that is ready to be used."""
    with tempfile.TemporaryDirectory(prefix="charlm-bench.") as folder:
        Store(Path(folder))
        yield Path(folder)


def _theirs(book: Book, iterations: int, batch_size: int, block_size: int) -> float:
    """Seconds an iteration of the notebook's loop."""
    model = notebook.BigramLanguageModel(len(book.vocabulary))
    return notebook.train(model, book.data["train"], iterations, batch_size=batch_size, block_size=block_size)[1]


def _alone(call: Timed) -> float:
    with _one_thread():
        return call()


def _iteration(book: Book, scale: Scale) -> Contest:
    title = f"{scale.iterations:,} iterations at the notebook's settings, float64, losses and logging on"
    row = Row("iteration", title, "iteration", "charlm", NOTEBOOK, Aim(0.5))

    @contextmanager
    def opened() -> Contestants:
        baseline = partial(_theirs, book, scale.iterations, notebook.BATCH_SIZE, notebook.BLOCK_SIZE)
        with _store() as root:
            yield {"charlm": partial(_ours, book, _settings(scale.iterations), root), NOTEBOOK: baseline}

    return Contest((row,), opened)


def _lightning(book: Book, scale: Scale) -> Contest:
    title = f"{scale.lightning_iterations:,} iterations against PyTorch Lightning with MLFlowLogger"

    @contextmanager
    def opened() -> Contestants:
        try:
            from benchmarks import lightning
        except ModuleNotFoundError as err:
            raise NotMeasuredError(f"there is no module {err.name}; `make bench` brings it") from err
        with _store() as root:
            iterations, uri = scale.lightning_iterations, f"sqlite:///{root}/mlflow.db"
            baseline = partial(lightning.train, book.data["train"], len(book.vocabulary), iterations, uri)
            yield {"charlm": partial(_ours, book, _settings(iterations), root), LIGHTNING: partial(_alone, baseline)}

    return Contest((Row("lightning", title, "iteration", "charlm", LIGHTNING, Aim(0.1)),), opened)


def _wide_iteration(book: Book, scale: Scale) -> Contest:
    iterations, names = scale.wide_iterations, ("charlm float32", "charlm float64")
    rows = (
        Row("wide-float32", "Batch 64 × block 64, float32", "iteration", names[0], NOTEBOOK, Aim(0.7)),
        Row("wide-float64", "Batch 64 × block 64, float64", "iteration", names[1], names[0], Aim(2)),
    )

    def ours(dtype: str) -> float:
        wide = {"batch_size": 64, "block_size": 64, "eval_interval": iterations, "dtype": dtype}
        return _ours(book, _settings(iterations, **wide), Path(), tracked=False)

    @contextmanager
    def opened() -> Contestants:
        baseline = partial(_theirs, book, iterations, 64, 64)
        yield {
            names[0]: lambda: ours("float32"),
            names[1]: lambda: ours("float64"),
            NOTEBOOK: baseline,
        }

    return Contest(rows, opened)


def _generate(book: Book, sequences: int, length: int, aim: float) -> Contest:
    """Text from a line end; several sequences as one batch in both."""
    many = f"{sequences:,} × " if sequences > 1 else ""
    row = Row(
        f"generate-{sequences}x{length}",
        f"Generate {many}{length:,} characters",
        "character",
        "charlm",
        NOTEBOOK,
        Aim(aim),
    )

    @contextmanager
    def opened() -> Contestants:
        size = len(book.vocabulary)
        model, baseline = BigramLanguageModel(size), notebook.BigramLanguageModel(size)
        context = torch.zeros((sequences, 1), dtype=torch.long)
        yield {
            "charlm": lambda: timed(lambda: model.generate(context, length), sequences * length),
            NOTEBOOK: lambda: timed(lambda: baseline.generate(context, length), sequences * length),
        }

    return Contest((row,), opened)


def _exact_loss(book: Book) -> Contest:
    title = f"Loss of both splits: exact here, of {notebook.EVAL_ITERS} batches each there"

    def exact(model: BigramLanguageModel) -> list[float]:
        counts = [torch.from_numpy(pair_counts(part, len(book.vocabulary))) for part in book.splits().values()]
        return [mean_loss(model.table, pairs) for pairs in counts]

    @contextmanager
    def opened() -> Contestants:
        size = len(book.vocabulary)
        model, baseline = BigramLanguageModel(size), notebook.BigramLanguageModel(size)
        yield {
            "charlm": lambda: timed(lambda: exact(model)),
            NOTEBOOK: lambda: timed(lambda: notebook.estimate_loss(baseline, book.data)),
        }

    return Contest((Row("loss", title, "measurement", "charlm", NOTEBOOK, Aim(1)),), opened)


def _tracking(book: Book, scale: Scale) -> Contest:
    title = f"{scale.tracked_iterations:,} iterations with tracking, its begin and end included"
    row = Row("tracking", title, "iteration", "charlm", "CHARLM_TRACKING=off", Aim(1.05))

    @contextmanager
    def opened() -> Contestants:
        with _store() as root:
            ours = partial(_ours, book, _settings(scale.tracked_iterations), root)
            yield {"charlm": ours, "CHARLM_TRACKING=off": partial(ours, tracked=False)}

    return Contest((row,), opened)
