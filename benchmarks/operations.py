"""Single operations, timed in this process: arrays, encoding, iterations, generation, loss.

charlm's run as in its stages, training in one thread. The notebook's run with PyTorch's own settings.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import notebook, texts
from benchmarks.comparison import Aim, Comparison, Row, Timer, time_call
from benchmarks.scale import Scale
from charlm.config import PARAMS_FILE, Params, flatten, load_params
from charlm.errors import CharlmError
from charlm.models.bigram import BigramLanguageModel
from charlm.models.gpt import GPT, Cache
from charlm.models.table import BigramTable
from charlm.random import generator
from charlm.text.corpus import Split
from charlm.text.vocabulary import Vocabulary
from charlm.tracking.live import live_run
from charlm.tracking.store import Store
from charlm.training.loop import train

Timers = Iterator[Mapping[str, Timer]]
CHARLM, NOTEBOOK, LIGHTNING = "charlm", "notebook", "Lightning in one thread"


class Book:
    """A text as long as a book, as charlm stores it and as the notebook does, and the parameters of the project."""

    def __init__(self, root: Path) -> None:
        text = texts.text(root, "ASCII", texts.BOOK)
        self.params = load_params(root / PARAMS_FILE)
        self.vocabulary = Vocabulary.from_texts([text])[0]
        self.size = len(self.vocabulary)
        train_tokens, test_tokens = np.split(self.vocabulary.encode(text), [int(0.8 * len(text))])
        self.tokens = {"train": train_tokens, "test": test_tokens}
        self.data = {name: torch.from_numpy(tokens.astype(np.int64)) for name, tokens in self.tokens.items()}

    def splits(self) -> list[Split]:
        """Both splits, new each time, because a split counts its pairs only once."""
        return [Split(name, tokens, self.size) for name, tokens in self.tokens.items()]


def comparisons(root: Path, scale: Scale) -> list[Comparison]:
    """All comparisons of this module."""
    book, short, long = Book(root), *scale.lengths
    iterations, lightning_iterations, tracked = scale.iterations, scale.lightning_iterations, scale.tracked_iterations
    settings = f"{iterations:,} iterations with the notebook's settings, exact, losses and logging on"
    against_lightning = f"{lightning_iterations:,} iterations against PyTorch Lightning with MLFlowLogger"
    with_tracking = f"{tracked:,} iterations with tracking, from the start of the run to its end"
    iteration = Row("iteration", settings, "iteration", CHARLM, NOTEBOOK, Aim(0.25))
    lightning = Row("lightning", against_lightning, "iteration", CHARLM, LIGHTNING, Aim(0.1))
    tracking = Row("tracking", with_tracking, "iteration", CHARLM, "CHARLM_TRACKING=off", Aim(1.05))
    return [
        *(_speed_check(device, scale.side) for device in _devices()),
        _encode(root, "encode-book", "ASCII", texts.BOOK, Aim(1 / 50)),
        _encode(root, "encode-ascii", "ASCII", scale.large, Aim(1 / 50)),
        _encode(root, "encode-multilingual", "multilingual", scale.large // 10, Aim(1 / 20)),
        _tracked(book, iteration, iterations, lambda _: partial(_notebook, book, iterations)),
        _tracked(book, lightning, lightning_iterations, partial(_lightning, book, lightning_iterations)),
        _wide_iteration(book, scale.wide_iterations),
        _generate(book, 1, short, Aim(1 / 2)),
        _generate(book, 1, long, Aim(1 / 20)),
        _generate(book, scale.sequences, short, Aim(1 / 200)),
        _cache(root, book, short),
        _loss(book),
        _tracked(book, tracking, tracked, lambda _: partial(_charlm, book, _params(book, tracked), None)),
    ]


def _devices() -> list[str]:
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [device for device, present in here.items() if present]


def _speed_check(device: str, side: int) -> Comparison:
    """The notebook's speed check, which compared torch's matrix product with NumPy's elementwise one. Both do both."""
    title = f"on {' × '.join([str(side)] * 4)} float32, {device}"
    rows = (
        Row(f"elementwise-{device}", f"Elementwise product {title}", "call", f"torch {device}, *", "NumPy, *"),
        Row(f"matmul-{device}", f"Matrix product {title}", "call", f"torch {device}, @", "NumPy, @"),
    )

    @contextmanager
    def timers() -> Timers:
        rng = np.random.default_rng(1337)
        a, b = (rng.random((side,) * 4, dtype=np.float32) for _ in range(2))
        x, y = (torch.from_numpy(array).to(device) for array in (a, b))

        def until_done(call: Callable[[], torch.Tensor]) -> float:
            return time_call(lambda: float(call().ravel()[0]))  # reading a number waits for the device

        yield {
            f"torch {device}, *": lambda: until_done(lambda: x * y),
            "NumPy, *": lambda: time_call(lambda: a * b),
            f"torch {device}, @": lambda: until_done(lambda: x @ y),
            "NumPy, @": lambda: time_call(lambda: a @ b),
        }

    return Comparison(rows, timers)


def _encode(root: Path, key: str, kind: texts.Kind, size: int, aim: Aim) -> Comparison:
    what = "a book" if size == texts.BOOK else f"{size / texts.MEGABYTE:g} MB"

    @contextmanager
    def timers() -> Timers:
        text = texts.text(root, kind, size)
        vocabulary, (string_to_int, _) = Vocabulary.from_texts([text])[0], notebook.dictionaries(text)
        yield {
            CHARLM: lambda: time_call(lambda: vocabulary.encode(text)),
            NOTEBOOK: lambda: time_call(lambda: notebook.encode(text, string_to_int)),
        }

    return Comparison((Row(key, f"Encode {what}, {kind}", "text", CHARLM, NOTEBOOK, aim),), timers)


def _params(book: Book, iterations: int, **changes: Any) -> Params:
    """The project's parameters, with the notebook's where it has them, for this many iterations."""
    settings = {
        "block_size": notebook.BLOCK_SIZE,
        "batch_size": notebook.BATCH_SIZE,
        "learning_rate": notebook.LEARNING_RATE,
        "eval_interval": notebook.LOG_INTERVAL,
        "max_iters": iterations,
        "device": "cpu",
        "precision": "exact",
    }
    return book.params.model_copy(update={"train": book.params.train.model_copy(update=settings | changes)})


def _charlm(book: Book, params: Params, store: Path | None) -> float:
    """Seconds an iteration of charlm's loop with exact losses, until its MLflow run in `store` is closed."""
    settings, rng = params.train, partial(generator, params.train.seed)
    model = BigramLanguageModel.initial(book.size, settings.block_size, rng("weights"), settings.precision)
    points = train(model, book.splits(), settings, rng("batches"))

    with one_thread(), ExitStack() as stack:
        run = stack.enter_context(live_run(store or Path(), warn=_refuse, tracked=store is not None))
        run.begin(flatten(params, "model", "train"))

        def run_all() -> None:
            for point in points:
                run.log(point, 0.0)
            stack.close()

        return time_call(run_all, settings.max_iters)


def _refuse(message: str) -> None:
    raise CharlmError(message)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch with one thread, as in the train stage."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _notebook(
    book: Book, iterations: int, batch_size: int = notebook.BATCH_SIZE, block_size: int = notebook.BLOCK_SIZE
) -> float:
    """Seconds an iteration of the notebook's loop."""
    model = notebook.BigramLanguageModel(book.size)
    return notebook.train(model, book.data["train"], iterations, batch_size=batch_size, block_size=block_size)[1]


def _lightning(book: Book, iterations: int, store: Path) -> Timer:
    """Times an iteration of Lightning's loop, which logs to the MLflow database in `store`."""
    try:
        from benchmarks import lightning
    except ModuleNotFoundError as err:
        raise CharlmError(f"There is no module {err.name}.", fix="`make bench` installs it.") from err

    def timer() -> float:
        with one_thread():
            return lightning.train(book.data["train"], book.size, iterations, f"sqlite:///{store}/mlflow.db")

    return timer


def _tracked(book: Book, row: Row, iterations: int, baseline: Callable[[Path], Timer]) -> Comparison:
    """The loop of charlm, which logs to an MLflow store, and a `baseline`, which may log to the same store."""

    @contextmanager
    def timers() -> Timers:
        with tempfile.TemporaryDirectory(prefix="charlm-bench.") as folder:
            store = Path(folder)
            Store(store)  # creates the database
            yield {CHARLM: partial(_charlm, book, _params(book, iterations), store), row.baseline: baseline(store)}

    return Comparison((row,), timers)


def _wide_iteration(book: Book, iterations: int) -> Comparison:
    float32, float64 = "charlm float32", "charlm float64"
    rows = (
        Row("wide-float32", "Batch 64 × block 64, float32", "iteration", float32, NOTEBOOK, Aim(0.15)),
        Row("wide-float64", "Batch 64 × block 64, float64", "iteration", float64, float32, Aim(2)),
    )

    @contextmanager
    def timers() -> Timers:
        params = {
            precision: _params(
                book, iterations, batch_size=64, block_size=64, eval_interval=iterations, precision=precision
            )
            for precision in ("float32", "float64", "exact")
        }
        yield {
            float32: partial(_charlm, book, params["float32"], None),
            float64: partial(_charlm, book, params["float64"], None),
            NOTEBOOK: partial(_notebook, book, iterations, 64, 64),
        }

    return Comparison(rows, timers)


def _generate(book: Book, sequences: int, length: int, aim: Aim) -> Comparison:
    """Text after a line end; several sequences are one batch in both."""
    many = f"{sequences:,} × " if sequences > 1 else ""
    key, title = f"generate-{sequences}x{length}", f"Generate {many}{length:,} characters"

    @contextmanager
    def timers() -> Timers:
        rng = np.random.default_rng(1337)
        table, baseline = BigramTable.initial(book.size, 1, rng), notebook.BigramLanguageModel(book.size)
        context = np.zeros((sequences, 1), dtype=np.int64)
        tensor, characters = torch.from_numpy(context), sequences * length
        yield {
            CHARLM: lambda: time_call(lambda: table.generate(context, length, 1.0, rng), characters),
            NOTEBOOK: lambda: time_call(lambda: baseline.generate(tensor, length), characters),
        }

    return Comparison((Row(key, title, "character", CHARLM, NOTEBOOK, aim),), timers)


class _WithoutCache(GPT):
    """A GPT that reads its window again for every character."""

    def continued(self, index: torch.Tensor, cache: Cache | None = None) -> tuple[torch.Tensor, Cache]:
        before = index[:, :0] if cache is None else cache[0]
        logits, (window, _) = super().continued(torch.cat([before, index], dim=1))
        return logits, (window, [])


def _cache(root: Path, book: Book, length: int) -> Comparison:
    """The GPT of the recipe, before its training: its speed does not depend on its weights."""
    cached, plain = "with its cache", "without"

    @contextmanager
    def timers() -> Timers:
        params = load_params(root / "recipes/gpt.yaml")
        sizes, context = params.model.settings.model_dump(), np.zeros((1, 1), dtype=np.int64)

        def timer(kind: type[GPT]) -> Timer:
            rng = np.random.default_rng(1337)
            model = kind.initial(book.size, params.train.block_size, rng, **sizes)
            return lambda: time_call(lambda: model.generate(context, length, 1.0, rng), length)

        yield {cached: timer(GPT), plain: timer(_WithoutCache)}

    title = f"Generate {length:,} characters with a GPT"
    return Comparison((Row("generate-gpt", title, "character", cached, plain, Aim(0.5)),), timers)


def _loss(book: Book) -> Comparison:
    title = f"Loss of both splits: exact here, from {notebook.EVAL_ITERS} batches each there"

    @contextmanager
    def timers() -> Timers:
        table = BigramTable.initial(book.size, 1, np.random.default_rng(1337))
        baseline = notebook.BigramLanguageModel(book.size)
        yield {
            CHARLM: lambda: time_call(lambda: [table.loss_over(split) for split in book.splits()]),
            NOTEBOOK: lambda: time_call(lambda: notebook.estimate_loss(baseline, book.data)),
        }

    return Comparison((Row("loss", title, "measurement", CHARLM, NOTEBOOK, Aim(1)),), timers)
