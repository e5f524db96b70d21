"""The command line, around what the pipeline leaves. Training is not here but in the pipeline, `dvc repro`."""

import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charlm.errors import CharlmError

if TYPE_CHECKING:
    from charlm.tracking.store import Store


class PortError(CharlmError):
    """The port for the UI is in use."""

    def __init__(self, port: int) -> None:
        super().__init__(f"Port {port} is in use on this machine.\nChoose another: charlm ui --port {port + 1}")


class ServerError(CharlmError):
    """MLflow's server ended before it answered."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"MLflow's UI ended with exit code {exit_code} before it answered; see its own words above.")


class NoModelError(CharlmError):
    """A folder holds no checkpoint with its vocabulary."""

    def __init__(self, folder: Path, places: list[str]) -> None:
        super().__init__(
            f"No model in {folder}: looked for {' and for '.join(places)}.\n"
            "`dvc repro` trains one, `dvc pull` fetches one that was pushed, --model names another folder."
        )


class NoBenchmarksError(CharlmError):
    """A project has no benchmarks."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            f"No folder benchmarks in {root}, where the baselines are.\nRun this in a clone of charlm's repository."
        )


@click.group()
@click.version_option(package_name="charlm")
def main() -> None:
    """A character language model, trained as a tracked, exactly reproducible experiment.

    The pipeline itself is DVC's: `dvc repro` runs it, `dvc exp run -S train.learning_rate=0.01` varies it.
    """


def _finite(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Port on 127.0.0.1.")
@click.option("--browser/--no-browser", default=True, help="Open the page in a browser, if there is one.")
def ui(*, port: int, browser: bool) -> None:
    """Browse the recorded runs in MLflow's own UI."""
    from charlm.config import project_root
    from charlm.tracking.store import Store, shown

    store = Store(project_root())
    if store.is_server:
        _open(store, shown(store.uri.rstrip("/")), browser=browser)
    else:
        _serve(store, port, browser=browser)


@main.command()
@click.argument("prompt", default="\n")
@click.option("--length", default=500, show_default=True, type=click.IntRange(1), help="Characters to generate.")
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    callback=_finite,
    help="Lower keeps to the likely characters, higher strays from them.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="The same seed gives the same text [default: random].")
@click.option("--model", help="A folder, runs:/<run id> or models:/charlm@champion [default: the project's data].")
def generate(prompt: str, length: int, temperature: float, seed: int | None, model: str | None) -> None:
    """Continue PROMPT, a line end if it is not given, with text from the trained model."""
    seed = secrets.randbits(63) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="charlm-model.") as folder:
        checkpoint, characters = _model_files(_model_folder(model, Path(folder)))

        from charlm.models import checkpoint as checkpoints
        from charlm.models.sampling import sample
        from charlm.text.vocabulary import Vocabulary

        vocabulary = Vocabulary.load(characters)
        trained = checkpoints.load(checkpoint, vocabulary)
        text = sample(trained, vocabulary, prompt, max_new_tokens=length, temperature=temperature, seed=seed)
    click.echo(text)


@main.command()
@click.argument("run", required=False)
@click.option("--force", is_flag=True, help="Without asking whether it is better.")
def promote(*, run: str | None, force: bool) -> None:
    """Register the model of RUN, and make it the champion if it is better.

    RUN is an id, the beginning of one, a run's name, or `latest`; without it, the run with the lowest test loss on the
    champion's text. Better is a lower test loss on the same text; one that is not is registered, and exits with 1.
    """
    from charlm.config import project_root
    from charlm.tracking import registry
    from charlm.tracking.store import Store

    click.echo(registry.promote(Store(project_root()), run, force=force))


@main.command()
def sync() -> None:
    """Make MLflow runs of every result that DVC knows and this store does not.

    Those are the experiments, and the commits that change dvc.lock, whose files are in DVC's cache. A second time
    changes nothing.
    """
    from rich.console import Console
    from rich.progress import track

    from charlm.config import ParamsError, project_root
    from charlm.provenance.repository import cache_folder
    from charlm.tracking import sync as syncing
    from charlm.tracking.store import Store

    root = project_root()
    store, cache = Store(root), cache_folder(root)
    for state in track(syncing.states(root), "sync", console=Console(stderr=True)):
        try:
            made = syncing.sync(root, cache, store, state)
        except (syncing.LeftOutError, ParamsError) as err:
            told = f"left out, {err.message}"
        else:
            told = f"recorded as run {', '.join(made)}" if made else "is recorded already"
        click.echo(f"{state}: {told}")


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure charlm beside the notebook that it grew from; --help tells the options."""
    from charlm.config import project_root

    root = project_root()
    if not (root / "benchmarks/__main__.py").is_file():
        raise NoBenchmarksError(root)
    sys.path.insert(0, str(root))  # the baselines are the project's, not the package's
    from benchmarks.__main__ import main as measure

    measure.main(arguments, prog_name="charlm bench")


@main.command()
@click.argument("run")
@click.option("--anyway", is_flag=True, help="Go on although the packages here are not those of the run.")
def reproduce(*, run: str, anyway: bool) -> None:
    """Prove that a recorded RUN comes out again, byte for byte.

    RUN is an id, the beginning of one, a run's name, or `latest`. Its commit is checked out into a temporary folder,
    its patch and params.yaml are put in place, and its stages run again. Nothing here is changed; a success is noted
    on the run. Exits with 0 when every file is the same, 1 when one differs, 2 when it could not be tried.
    """
    from charlm.provenance.reproduction import DifferentError, NotTriedError

    try:
        _reproduce(run, anyway=anyway)
    except DifferentError:
        raise
    except CharlmError as err:
        raise NotTriedError(err.message) from err


def _reproduce(run: str, *, anyway: bool) -> None:
    from charlm.config import PARAMS_FILE, project_root
    from charlm.provenance import reproduction
    from charlm.provenance.code import ENVIRONMENT, PATCH, Environment
    from charlm.tracking.runs import note_reproduced, recorded_run
    from charlm.tracking.store import Store

    store = Store(project_root())
    with tempfile.TemporaryDirectory(prefix="charlm-record.") as folder:
        recorded = recorded_run(store, run, Path(folder))
        record = reproduction.Record(
            commit=recorded.commit,
            patch=recorded.read(PATCH),
            params=recorded.read(PARAMS_FILE),
            lock=recorded.read("dvc.lock"),
        )
        made_with, here = Environment.from_json(recorded.read(ENVIRONMENT).decode()), Environment.here()
        software = made_with.software_differences(here)
        if software and not anyway:
            raise reproduction.PackagesDifferError(software)
        with reproduction.made_again(record) as remade:
            known = software + made_with.machine_differences(here)
            reproduction.report(record, remade, recorded.artifacts, known)
    under = ", with other packages" if software else ""
    click.echo(f"Run {recorded.name} reproduced exactly: {note_reproduced(store, recorded.run_id, under)}.")


def _model_folder(model: str | None, temporary: Path) -> Path:
    """The folder that --model means; what stands in MLflow is fetched into `temporary`."""
    from charlm.config import project_root

    if model is None:
        return project_root() / "data"
    if not model.startswith(("runs:", "models:")):
        return Path(model)

    from charlm.tracking.registry import download_model
    from charlm.tracking.store import Store

    return download_model(Store(project_root()), model, temporary)


def _model_files(folder: Path) -> tuple[Path, Path]:
    """Checkpoint and vocabulary in `folder`: side by side, as in an MLflow model, or as the stages leave them."""
    inside = [("", ""), ("artifacts/", "artifacts/"), ("checkpoint/", "checkpoint/"), ("train/", "prepare/")]
    pairs = [(f"{first}model.safetensors", f"{second}vocabulary.json") for first, second in inside]
    for checkpoint, vocabulary in pairs:
        if (folder / checkpoint).is_file() and (folder / vocabulary).is_file():
            return folder / checkpoint, folder / vocabulary
    raise NoModelError(folder, [" with ".join(pair) for pair in pairs])


def _serve(store: "Store", port: int, *, browser: bool) -> None:
    """Run MLflow's server on `store` until it is interrupted."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as err:
            raise PortError(port) from err
    address = f"http://127.0.0.1:{port}"
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = ["--uvicorn-opts", "--log-level warning"]
    environment = os.environ | {"MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"}
    environment |= {"MLFLOW_BACKEND_STORE_URI": store.uri}  # not on the command line: it may hold a password
    command = [sys.executable, "-m", "mlflow", "ui", *where, *quiet]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # In a session of its own, Ctrl-C reaches this process alone, which then ends the server and all that it started.
    with subprocess.Popen(command, env=environment, start_new_session=True) as server, suppress(KeyboardInterrupt):
        try:
            _wait_for(address, server)
            _open(store, address, browser=browser)
            server.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def _wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    """Return when the server answers; ServerError when it ends before."""
    import httpx
    from rich.console import Console

    with Console(stderr=True).status("MLflow's server is starting"):
        while True:
            try:
                httpx.get(f"{address}/health", trust_env=False).raise_for_status()
                return
            except httpx.HTTPError:
                if (code := server.poll()) is not None:
                    raise ServerError(code) from None
                time.sleep(0.2)


def _open(store: "Store", address: str, *, browser: bool) -> None:
    """Say where the runs are on the server at `address` and show them, where there is a browser to show them."""
    from charlm.tracking.ui_view import runs_page

    page = f"{address}/{runs_page(store)}"
    click.echo(f"\nThe runs: {page}\n")
    if browser:
        webbrowser.open(page)


if __name__ == "__main__":
    main()
