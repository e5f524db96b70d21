"""The whole pipeline and single commands, as processes, in a copy of the project that is set to a text of its own."""

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
from benchmarks.parts import timed
from charlm.bench import Aim, Contest, NotMeasuredError, Row, Timed

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
"""What of the project the copy has."""


def environment(folder: Path) -> dict[str, str]:
    """That of this process, for commands in `folder`: this Python's, a name for git, and no state outside."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {
        "PATH": programs,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder / ".site"),
        "DVC_ROOT": str(folder),
    }
    person = {f"GIT_{role}_{key}": "bench@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    return {**os.environ, **own, **person}


def run(folder: Path, *command: str) -> None:
    """Run `command` in `folder`; NotMeasuredError with its last words when it fails."""
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotMeasuredError(f"`{' '.join(command)}` exited with {done.returncode}: {done.stderr.strip()[-300:]}")


def copy_project(root: Path, folder: Path) -> Path:
    """A git repository in `folder` with the project's code, set to the text book.txt, which is yet to be written."""
    for name in CODE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy2
        copy(root / name, folder / name)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["data"] |= {"source": "book.txt", "sha256": None}
    yaml.dump(params, folder / "params.yaml")
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "The project")
    return folder


@contextmanager
def project(root: Path) -> Iterator[Path]:
    """A copy of the project on a text of a book's size, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="charlm-bench.") as temporary:
        folder = copy_project(root, Path(temporary) / "project")
        (folder / "dvc.lock").unlink()
        texts.write(folder / "book.txt", root, "ASCII", texts.BOOK)
        yield folder


def contests(root: Path) -> list[Contest]:
    """All of this module."""
    return [_cold(root), _finished(root)]


SCRIPT = ("python", "-m", "benchmarks.notebook", "book.txt")
NAMES = ("the script", "the script with MLflow")


def _cold(root: Path) -> Contest:
    title = "The pipeline, cold: no result, no cache, no MLflow store"
    rows = (
        Row("cold", title, "run", "dvc repro", NAMES[0], Aim(3)),
        Row("cold-mlflow", title, "run", "dvc repro", NAMES[1]),
    )

    @contextmanager
    def opened() -> Iterator[Mapping[str, Timed]]:
        with project(root) as folder:

            def fresh(*command: str) -> float:
                copy = folder.parent / "fresh"
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(folder, copy)
                return timed(lambda: run(copy, *command))

            yield {
                "dvc repro": lambda: fresh("dvc", "repro"),
                NAMES[0]: lambda: fresh(*SCRIPT),
                NAMES[1]: lambda: fresh(*SCRIPT, "--mlflow", str(folder.parent / "fresh/notebook.db")),
            }

    return Contest(rows, opened)


def _finished(root: Path) -> Contest:
    """What is done in a project that has its result."""
    title = "The pipeline, warm: every stage again"
    rows = (
        Row("warm", title, "run", "dvc repro --force", NAMES[0], Aim(3)),
        Row("warm-mlflow", title, "run", "dvc repro --force", NAMES[1]),
        Row("idle", "Nothing to do", "command", "dvc repro", "dvc status", Aim(0.2, "seconds more")),
        Row("help", "Start-up", "command", "charlm --help", "python -c pass", Aim(0.2, "seconds")),
        Row(
            "prepare", "The prepare stage", "command", "python -m stages.prepare", "python -c pass", Aim(0.5, "seconds")
        ),
    )

    @contextmanager
    def opened() -> Iterator[Mapping[str, Timed]]:
        with project(root) as folder:
            store = str(folder.parent / "notebook.db")
            run(folder, "dvc", "repro")
            run(folder, *SCRIPT, "--mlflow", store)

            def command(*words: str) -> Timed:
                return lambda: timed(lambda: run(folder, *words))

            yield {
                "dvc repro --force": command("dvc", "repro", "--force"),
                NAMES[0]: command(*SCRIPT),
                NAMES[1]: command(*SCRIPT, "--mlflow", store),
                "dvc repro": command("dvc", "repro"),
                "dvc status": command("dvc", "status"),
                "charlm --help": command("charlm", "--help"),
                "python -c pass": command("python", "-c", "pass"),
                "python -m stages.prepare": command("python", "-m", "stages.prepare", "data/download", "data/prepare"),
            }

    return Contest(rows, opened)
