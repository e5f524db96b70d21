"""The command line, for what the pipeline has computed. Training is the pipeline's: `dvc repro`."""

import math
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charlm.errors import CharlmError, escape_on_stdout

if TYPE_CHECKING:
    from charlm.tracking.store import Store


@click.group()
@click.version_option(package_name="charlm")
def main() -> None:
    """A character language model, trained as a tracked, exactly reproducible experiment.

    DVC runs the pipeline: `dvc repro`, or `dvc exp run -S train.learning_rate=0.01` for another experiment.
    """
    escape_on_stdout()


def _store() -> "Store":
    """The MLflow store of the project."""
    from charlm.config import project_root
    from charlm.tracking.store import Store

    return Store(project_root())


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

    ui.show(_store(), port, browser=browser)


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
@click.option("--model", help="A folder, runs:/<run id> or models:/charlm@champion [default: the project's data].")
def generate(prompt: str, length: int, temperature: float, seed: int | None, model: str | None) -> None:
    """Continue PROMPT with text from the trained model, printed as it is drawn. The default is a line end."""
    from charlm.tracking.registry import model_files

    seed = secrets.randbits(63) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="charlm-model.") as folder:
        weights, characters = model_files(model, Path(folder))

        from charlm.models import checkpoint
        from charlm.models.sampling import stream
        from charlm.text.vocabulary import Vocabulary

        vocabulary = Vocabulary.load(characters)
        trained = checkpoint.load(weights, vocabulary)
        for piece in stream(trained, vocabulary, prompt, max_new_tokens=length, temperature=temperature, seed=seed):
            _print(piece)
    _print("\n")


@main.command()
@click.argument("run", required=False)
@click.option("--force", is_flag=True, help="Promote RUN even if it is not better.")
def promote(*, run: str | None, force: bool) -> None:
    """Make the model of RUN the champion if it is better.

    RUN is an id, the beginning of one, a run's name, or `latest`; the default is the run with the lowest test loss on
    the champion's text. Better means a lower test loss on the same text. A better model is registered as a new version
    and gets the alias `champion`. Otherwise nothing is registered, and the exit code is 1.
    """
    from charlm.tracking import registry

    click.echo(registry.promote(_store(), run, force=force))


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

    root, store = project_root(), _store()
    cache, states = cache_folder(root), sync.states(root)
    if not states:
        click.echo(f"No experiment and no commit here has a dvc.lock in {root}: there is nothing to record.")
        return
    for state in track(states, "sync", console=Console(stderr=True)):
        try:
            runs = sync.sync(root, cache, store, state)
        except sync.LeftOutError as err:
            outcome = f"left out, {err.message}"
        else:
            outcome = f"recorded as run {', '.join(runs)}" if runs else "is recorded already"
        click.echo(f"{state}: {outcome}")


@main.command()
@click.argument("run")
@click.option("--ignore-packages", is_flag=True, help="Try even if packages that decide a result differ.")
def reproduce(*, run: str, ignore_packages: bool) -> None:
    """Run the stages of RUN again and compare every byte.

    RUN is an id, the beginning of one, a run's name, or `latest`. Its commit is checked out into a temporary folder,
    with its patch and params.yaml, and its stages run there. Your files do not change; a run that is reproduced gets a
    tag. The exit code is 0 if every file is the same, 1 if one differs, 2 if the run cannot be reproduced here.
    """
    from charlm.provenance.repository import NotTriedError
    from charlm.provenance.reproduction import DifferentError
    from charlm.tracking import runs

    try:
        click.echo(runs.reproduce(_store(), run, ignore_packages=ignore_packages))
    except DifferentError:
        raise
    except CharlmError as err:
        raise NotTriedError(err.message) from err


if __name__ == "__main__":
    main()
