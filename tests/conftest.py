"""What the tests share: a place of their own, a copy of the project, and one finished run of its pipeline."""

import gc
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from socketserver import BaseServer
from threading import Thread
from typing import Any

import hypothesis
import pytest
from filelock import FileLock
from ruamel.yaml import YAML

from charlm.files import sha256
from charlm.text.vocabulary import Vocabulary
from charlm.tracking.content import Content
from charlm.training.history import Point

PROJECT = Path(__file__).resolve().parent.parent
MIRROR = PROJECT.parent / "shared" / "gutenberg"
TALE = {"source": "tests/tale.txt", "sha256": None}
SMALL = {"learning_rate": [0.003, 0.03], "batch_size": [8]}
LARGE = {"learning_rate": [0.003, 0.01, 0.03], "batch_size": [8, 32], "max_iters": [500, 1500]}
"""What a sweep of the bigram varies: in tests, and for pictures."""

Run = Callable[..., subprocess.CompletedProcess[str]]
Serving = Callable[[BaseServer], AbstractContextManager[None]]
Once = Callable[[str, Callable[[Path], object]], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests of the UI leave pictures of what they see."""
    parser.addoption("--screenshots", type=Path, metavar="FOLDER", help="write the pictures that docs/ shows there")


MEMORY = Path("/dev/shm")  # noqa: S108 a file system in memory, on Linux
ROOM = 4 * 2**30
"""Bytes that the folders of all tests take at most."""


def pytest_configure(config: pytest.Config) -> None:
    """Set the tests, and the processes that they start, apart from the settings of whoever runs them.

    Their folders are in memory where it has room: a commit of SQLite's takes 0.1 ms there and 20 ms on a disk.
    """
    if config.option.basetemp is None and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        config.option.basetemp = Path(tempfile.mkdtemp(prefix="charlm-tests-", dir=MEMORY))
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))
    hypothesis.settings.register_profile(
        "charlm",
        deadline=None,  # it would assert a timing
        max_examples=50,
        derandomize="CI" in os.environ,  # a commit passes or not, whatever was drawn
    )
    hypothesis.settings.load_profile("charlm")
    for name in [name for name in os.environ if name.startswith(("CHARLM_", "DVC_", "MLFLOW_", "GIT_", "MKL_"))]:
        del os.environ[name]
    os.environ |= {
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "OMP_NUM_THREADS": "1",  # the tests already run in parallel; PyTorch reads it when it is imported
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    for role in ("AUTHOR", "COMMITTER"):
        os.environ |= {f"GIT_{role}_NAME": "A Tester", f"GIT_{role}_EMAIL": "tester@example.org"}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin early what takes long: the groups, each of which one process runs, then the long tests.

    Begun last, they would keep a single process busy while the others have ended. Between the two are tests that need
    no finished project, as the first test that does makes it.
    """

    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("xdist_group"):
            return 0
        if item.path.parent.name in ("models", "text", "training"):
            return 1
        return 2 if item.get_closest_marker("long") else 3

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Spare the garbage collector PyTorch and MLflow, which stay."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _dvc_site_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what DVC remembers of these projects out of the machine's own place for it."""
    os.environ["DVC_SITE_CACHE_DIR"] = str(tmp_path_factory.mktemp("dvc"))


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The mirror of Project Gutenberg beside the project."""
    if not MIRROR.is_dir():
        pytest.skip(f"needs a mirror of Project Gutenberg in {MIRROR}")
    return MIRROR


@pytest.fixture(scope="session")
def run() -> Run:
    """A function that runs a command in a folder and expects it to exit with `code`; its output is text."""

    def run(folder: Path, *command: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def serving() -> Serving:
    """A function that lets a server of the standard library answer, in a thread, as long as its block lasts."""

    @contextmanager
    def serving(server: BaseServer) -> Iterator[None]:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:  # or a test that fails never ends
            server.shutdown()
            thread.join()

    return serving


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy between a test and its server, no terminal to draw on."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """A function that has a named folder filled the first time that one of the parallel processes asks for it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, fill: Callable[[Path], object]) -> Path:
        folder, filled = base / name, base / f"{name}.filled"
        with FileLock(base / f"{name}.lock"):
            if not filled.exists():
                fill(folder)
                filled.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def tale_project(once: Once, run: Run) -> Path:
    """A git repository of the project as it stands here, set to the bundled tale, never run, its lock absent."""

    def fill(folder: Path) -> None:
        listed = run(PROJECT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").stdout
        for name in filter(None, listed.split("\0")):
            if (PROJECT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / name, folder / name)
        (folder / "dvc.lock").unlink(missing_ok=True)
        params = folder / "params.yaml"
        settings = YAML().load(params.read_text())
        settings["data"] |= TALE
        YAML().dump(settings, params)
        run(folder, "git", "init", "--quiet", "--initial-branch=main")
        run(folder, "git", "add", "--all")
        run(folder, "git", "commit", "--quiet", "--message=The project, set to the tale")

    return once("tale", fill)


@pytest.fixture(scope="session")
def finished_project(tale_project: Path, once: Once, run: Run) -> Path:
    """The project on the tale after its first `dvc repro`, the result committed. Not to be changed: copy it."""

    def fill(folder: Path) -> None:
        shutil.copytree(tale_project, folder)
        run(folder, "dvc", "repro")
        run(folder, "git", "add", "--all")
        run(folder, "git", "commit", "--quiet", "--message=The result")

    return once("finished", fill)


@pytest.fixture(scope="session")
def empty_store(once: Once, run: Run) -> Path:
    """An MLflow database without experiments: making its tables takes seconds, copying them does not."""

    def fill(folder: Path) -> None:
        folder.mkdir()
        run(folder, "mlflow", "db", "upgrade", "sqlite:///mlflow.db")

    return once("store", fill) / "mlflow.db"


@pytest.fixture(scope="session")
def sweep(request: pytest.FixtureRequest, tale_project: Path, once: Once, run: Run) -> Path:
    """A project with two experiments in its store: a sweep of the bigram, and the ladder, every recipe once.

    The files of the ladder's last run are in ladder/. For pictures the sweep is larger and the ladder is the real one.
    """
    pictures = request.config.getoption("screenshots")
    short = {"batch_size": 4, "max_iters": 4, "warmup_iters": 1, "eval_interval": 2, "eval_iters": 1}
    grid, changes, environment = SMALL, {"data": TALE, "train": short, "sample": {"max_new_tokens": 100}}, {}
    if pictures:
        environment = {"CHARLM_GUTENBERG_MIRROR": str(request.getfixturevalue("mirror"))}
        grid, changes = LARGE, {}

    def fill(folder: Path) -> None:
        shutil.copytree(tale_project, folder)
        if not pictures:
            tale = folder / TALE["source"]
            tale.write_text(tale.read_text()[1000:9000])  # each model reads all of it, three times
        run(folder, "python", "-m", "tests.sweep", *map(json.dumps, (grid, changes)), **environment)

    return once("sweep", fill)


def with_store(folder: Path, copied: Path) -> Path:
    """Give `folder`, a copy of the project `copied`, a store with the same runs, whose new artifacts go to `folder`.

    The artifacts of the runs stay in `copied`; they are not to be changed.
    """
    shutil.copy(copied / "mlflow.db", folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        store.execute("UPDATE experiments SET artifact_location = ?", [(folder / "mlartifacts").as_uri()])
    return folder


@pytest.fixture
def project(finished_project: Path, empty_store: Path, tmp_path: Path) -> Path:
    """A clone of the finished project with its results and its DVC cache, but a store of its own, still empty."""
    folder = tmp_path / "project"
    shutil.copytree(finished_project, folder, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


POINTS = [Point(0, 3.0, 3.1, None), Point(10, 2.0, 2.1, 2.05), Point(15, 1.5, 1.6, 1.55)]
PARAMS = {
    "data.source": "a.txt",
    "model.name": "bigram",
    "train.seed": 1,
    "train.max_iters": 15,
    "sample.prompt": "a",
    "sample.max_new_tokens": 500,
    "sample.temperature": 1.0,
    "sample.seed": 1337,
}


@pytest.fixture
def content(tmp_path: Path) -> Callable[..., Content]:
    """A function that makes the content of a run with a real checkpoint; `changes` are fields that differ."""
    from charlm.models import checkpoint  # here, so that the process that hands out the tests does not load PyTorch
    from tests.models_for_tests import bigram

    vocabulary = Vocabulary("abc")
    files = {"checkpoint": tmp_path / "model.safetensors", "vocabulary": tmp_path / "vocabulary.json"}
    checkpoint.save(files["checkpoint"], bigram(3), "bigram", {}, vocabulary)
    files["vocabulary"].write_text(vocabulary.to_json())

    def make(**changes: Any) -> Content:
        usual = {
            "checkpoint_sha256": sha256(files["checkpoint"]),
            "results_sha256": "b" * 64,
            "params": PARAMS,
            "points": POINTS,
            "metrics": {"perplexity/test": 4.9},
            "references": {"reference/uniform": 4.4},
            "sources": ["a.txt"],
            "text_sha256": "d" * 64,
            "tokens_sha256": {"train": "c" * 64, "test": "e" * 64},
            "files": {},
            "texts": {},
            "figures": {},
            "description": "A note",
            "example": "abc",
        }
        return Content(**usual | files | changes)

    return make
