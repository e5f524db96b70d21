"""The whole pipeline and single commands, timed as processes in a copy of the project with another text."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks import texts
from benchmarks.comparison import Aim, Comparison, Row, Timer, time_call
from charlm.errors import CharlmError
from charlm.provenance import repository

CODE = (
    "charlm",
    "stages",
    "benchmarks",
    "dvc.yaml",
    "dvc.lock",
    "params.yaml",
    ".dvcignore",
    ".gitignore",
    ".dvc/config",
)
"""What is copied of the project."""
SCRIPT = ("python", "-m", "benchmarks.notebook", "book.txt")
NOTHING = "python -c pass"


def environment(folder: Path) -> dict[str, str]:
    """The environment for commands in `folder`: this Python, an author for git, and no state outside."""
    own = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder / ".site"),
    }
    person = {f"GIT_{role}_{key}": "bench@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    return repository.environment() | own | person


def run(folder: Path, *command: str) -> None:
    """Run `command` in `folder`. Raises CharlmError with the end of its stderr if it fails."""
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    if done.returncode:
        raise CharlmError(f"`{' '.join(command)}` exited with {done.returncode}: {done.stderr.strip()[-300:]}")


def copy_project(root: Path, folder: Path, source: str) -> Path:
    """A git repository in `folder` with the project's code and `source` as its data.source."""
    for name in CODE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy2
        copy(root / name, folder / name)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["data"] |= {"source": source, "sha256": None}
    yaml.dump(params, folder / "params.yaml")
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "The project")
    return folder


@contextmanager
def project(root: Path) -> Iterator[Path]:
    """A copy of the project with a text as long as a book, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="charlm-bench.") as temporary:
        folder = copy_project(root, Path(temporary) / "project", "book.txt")
        (folder / "dvc.lock").unlink()
        texts.write(folder / "book.txt", root, "ASCII", texts.BOOK)
        yield folder


def comparisons(root: Path) -> list[Comparison]:
    """All comparisons of this module."""
    return [_pipeline(root), _start_up(root)]


def _pipeline(root: Path) -> Comparison:
    """The whole pipeline, from nothing and again, beside the notebook as one script."""
    cold, warm, idle = "dvc repro", "dvc repro --force", "dvc repro, nothing changed"
    script, with_mlflow = "the script", "the script with MLflow"
    rows = (
        Row("cold", "The pipeline, cold: no result, no cache, no MLflow store", "run", cold, script, Aim(2.5)),
        Row("warm", "The pipeline, warm: every stage runs again", "run", warm, script, Aim(2)),
        Row("warm-mlflow", "The pipeline, warm: every stage runs again", "run", warm, with_mlflow),
        Row("idle", "Nothing to do", "command", idle, "dvc status", Aim(0.2, "seconds more")),
    )

    @contextmanager
    def timers() -> Iterator[Mapping[str, Timer]]:
        with project(root) as folder:
            finished, store = folder.parent / "finished", str(folder.parent / "notebook.db")

            def from_nothing() -> float:
                shutil.rmtree(finished, ignore_errors=True)
                shutil.copytree(folder, finished)
                return _command(finished, "dvc", "repro")()

            def in_finished(*words: str) -> float:
                if not finished.exists():
                    from_nothing()
                return _command(finished, *words)()

            yield {
                cold: from_nothing,
                warm: lambda: in_finished("dvc", "repro", "--force"),
                idle: lambda: in_finished("dvc", "repro"),
                "dvc status": lambda: in_finished("dvc", "status"),
                script: _command(folder, *SCRIPT),
                with_mlflow: _command(folder, *SCRIPT, "--mlflow", store),
            }

    return Comparison(rows, timers)


def _start_up(root: Path) -> Comparison:
    """What a command takes before it does any work, and what every stage and the script pay for their imports."""
    imports = {"import-torch": "import torch", "import-mlflow": "import mlflow"}
    rows = (
        Row("help", "Start-up", "command", "charlm --help", NOTHING, Aim(0.2, "seconds")),
        Row("prepare", "The prepare stage on a book", "command", "stages.prepare", NOTHING, Aim(0.5, "seconds")),
        *(Row(key, "Part of a start-up", "command", code, NOTHING) for key, code in imports.items()),
    )

    @contextmanager
    def timers() -> Iterator[Mapping[str, Timer]]:
        with project(root) as folder:
            run(folder, "python", "-m", "stages.download", "data/download")
            yield {
                "charlm --help": _command(folder, "charlm", "--help"),
                "stages.prepare": _command(folder, "python", "-m", "stages.prepare", "data/download", "data/prepare"),
                NOTHING: _command(folder, *NOTHING.split()),
                **{code: _command(folder, "python", "-c", code) for code in imports.values()},
            }

    return Comparison(rows, timers)


def _command(folder: Path, *words: str) -> Timer:
    return lambda: time_call(lambda: run(folder, *words))
