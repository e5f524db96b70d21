"""The command line, for what the pipeline has computed. Training is the pipeline's: `dvc repro`."""

import gc
import math
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charlm.errors import CharlmError, escape_on_stdout

if TYPE_CHECKING:
    from charlm.models.predictor import Predictor
    from charlm.text.vocabulary import Vocabulary


@click.group()
@click.version_option(package_name="charlm")
def main() -> None:
    """A character language model, trained as a tracked, exactly reproducible experiment.

    DVC runs the pipeline: `dvc repro`, or `dvc exp run --temp -S train.learning_rate=0.01` for another experiment.
    """
    gc.set_threshold(10_000)  # as in a stage, see stages/__init__.py
    escape_on_stdout()


def _finite(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


def _print(text: str) -> None:
    """Print `text` alone. Raises CharlmError if the disk behind stdout is full; a reader that has left is no error."""
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:
        raise  # click ends the command in silence
    except OSError as err:
        raise CharlmError(f"The text cannot be written to standard output: {err.strerror}.") from err


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Port on 127.0.0.1.")
@click.option("--browser/--no-browser", default=True, help="Open the page in a browser, if there is one.")
def ui(*, port: int, browser: bool) -> None:
    """Open the recorded runs in MLflow's UI."""
    from charlm.tracking import ui
    from charlm.tracking.store import project_store

    ui.show(project_store(), port, browser=browser)


@main.command()
@click.argument("prompt", default="\n")
@click.option("--length", default=500, show_default=True, type=click.IntRange(1, 10**7), help="Characters to generate.")
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    callback=_finite,
    help="Below 1 favours likely characters, above 1 unlikely ones.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="The same seed gives the same text [default: random].")
@click.option("--model", help="A run or a model, see above [default: the result under data/].")
@click.option("--show-surprise", is_flag=True, help="Colour each character by the bits that it took the model.")
def generate(
    prompt: str, length: int, temperature: float, seed: int | None, model: str | None, *, show_surprise: bool
) -> None:
    """Continue PROMPT with text from a trained model, printed as it is drawn. The default is a line end.

    The model is that of the result under data/, or any other by a run's name, its id or the beginning of one,
    `latest`, a folder, or an MLflow address such as models:/charlm@champion. Stderr says which one it is.
    """
    from charlm.tracking.find import find_model

    seed = secrets.randbits(63) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="charlm-model.") as folder:
        found = find_model(model, Path(folder))

        from charlm.models import checkpoint
        from charlm.models.sampling import stream
        from charlm.text.vocabulary import Vocabulary

        vocabulary = Vocabulary.load(found.vocabulary)
        trained = checkpoint.load(found.checkpoint, vocabulary)
        pieces = stream(trained, vocabulary, prompt, max_new_tokens=length, temperature=temperature, seed=seed)
        click.secho(f"{found}:", err=True, dim=True)
        for piece in _coloured("".join(pieces), trained, vocabulary) if show_surprise else pieces:
            _print(piece)
    _print("\n")


def _coloured(text: str, model: "Predictor", vocabulary: "Vocabulary") -> Iterator[str]:
    """Each character of `text`, the redder the more bits it took `model` after those before it; 8 and more are red."""
    from charlm.text.corpus import Split

    losses = model.position_losses(Split("text", vocabulary.encode(text), len(vocabulary)))  # (N - 1,)
    for char, loss in zip(text, [0.0, *losses], strict=True):
        pale = round(255 * (1 - min(loss / math.log(2) / 8, 1)))
        yield click.style(char, bg=(255, pale, pale), fg="black")


@main.command()
@click.argument("run", required=False)
@click.option("--force", is_flag=True, help="Promote RUN even if it is not better.")
def promote(*, run: str | None, force: bool) -> None:
    """Make the model of RUN the champion if it is better.

    RUN is a run's name, its id or the beginning of one, `latest`, a folder with a model, or an MLflow address such as
    runs:/ID; the default is the run with the lowest test loss on the champion's text. Better means a lower test loss
    on the same text. A better model is registered as a new version and gets the alias `champion`. Otherwise nothing is
    registered, and the exit code is 1.
    """
    from charlm.tracking import registry
    from charlm.tracking.store import project_store

    click.echo(registry.promote(project_store(), run, force=force))


@main.command()
def sync() -> None:
    """Record every result that DVC has and MLflow lacks.

    Results are the experiments, and the commits that change dvc.lock, whose files are in DVC's cache. Each becomes an
    MLflow run tagged `charlm.origin=restored`; nothing is trained. A second call changes nothing.
    """
    from rich.console import Console
    from rich.progress import track

    from charlm.config import project_root
    from charlm.provenance.repository import cache_folder
    from charlm.tracking import sync
    from charlm.tracking.store import Store

    root = project_root()
    store = Store(root)
    cache, states = cache_folder(root), sync.states(root)
    if not states:
        click.echo(f"No experiment and no commit here has a dvc.lock in {root}: there is nothing to record.")
        return
    not_cached = 0
    for state in track(states, "sync", console=Console(stderr=True)):
        try:
            runs = sync.sync(root, cache, store, state)
        except sync.NotCachedError as err:
            if state.experiment is None:  # a clone lacks the results of most commits
                not_cached += 1
                continue
            outcome = f"left out, {err.message}"
        except sync.LeftOutError as err:
            outcome = f"left out, {err.message}"
        else:
            outcome = f"recorded as run {', '.join(runs)}" if runs else "is recorded already"
        click.echo(f"{state}: {outcome}")
    if not_cached:
        click.echo(f"Results of {not_cached} commits: left out, not in DVC's cache ({sync.FETCH})")


@main.command()
@click.argument("run")
@click.option("--ignore-packages", is_flag=True, help="Try even if packages that decide a result differ.")
def reproduce(*, run: str, ignore_packages: bool) -> None:
    """Run the stages of RUN again and compare every byte.

    RUN is a run's name, its id or the beginning of one, `latest`, a folder with a model, or an MLflow address such as
    models:/charlm@champion. Its commit is checked out into a temporary folder,
    with its patch and params.yaml, and its stages run there. Your files do not change; a run that is reproduced gets a
    tag. The exit code is 0 if every file is the same, 1 if one differs, 2 if the run cannot be reproduced here.
    """
    from charlm.provenance.repository import NotTriedError
    from charlm.provenance.reproduction import DifferentError
    from charlm.tracking import runs
    from charlm.tracking.store import project_store

    try:
        click.echo(runs.reproduce(project_store(), run, ignore_packages=ignore_packages))
    except DifferentError:
        raise
    except CharlmError as err:
        raise NotTriedError(err.message) from err


if __name__ == "__main__":
    main()
