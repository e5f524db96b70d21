"""docs/server.md corrects a local store whose folder has moved."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

from tests.trainings import only_run, run_record

PAGE = (Path(__file__).resolve().parent.parent / "docs/server.md").read_text(encoding="utf-8")
Run = Callable[..., subprocess.CompletedProcess[str]]


def artifact(project: Path, folder: Path) -> Path:
    folder.mkdir()
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    return Path(client.download_artifacts(only_run(project).info.run_id, "samples/trained.txt", str(folder)))


def test_moved_store_is_corrected_by_the_commands_of_the_page(project: Path, run: Run, tmp_path: Path) -> None:
    run_record(project)
    there = tmp_path / "another place, é"
    project.rename(there)
    assert only_run(there).info.artifact_uri.startswith(project.as_uri())
    [commands] = re.findall(r"^```bash\n(old=.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    output = run(there, "bash", "-eu", "-c", commands.replace("/home/ann/charlm", str(project))).stdout
    assert "runs.artifact_uri: 1 moved" in output
    assert "logged_models.artifact_location: 1 moved" in output
    sample = (there / "data/sample/trained.txt").read_bytes()
    assert artifact(there, tmp_path / "fetched").read_bytes() == sample
    assert only_run(there).info.artifact_uri.startswith(there.as_uri())
