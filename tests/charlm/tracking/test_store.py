"""A store that cannot be used is reported with what to do about it, before anything is done."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from charlm.config import address
from charlm.errors import CharlmError, without_password
from charlm.provenance.code import Origin
from charlm.tracking.live import live_run
from charlm.tracking.record import record
from charlm.tracking.store import Store, enabled, reason, store_error
from charlm.training.history import Point
from tests.conftest import Serving
from tests.trainings import refusal

PROJECT = Path(__file__).resolve().parents[3]


def test_deleted_experiment_is_reported_with_the_way_to_restore_it(root: Path) -> None:
    store = Store(root)
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(CharlmError, match=r"its experiment charlm is deleted\. `mlflow experiments restore -x 1`"):
        Store(root)


def test_experiment_is_also_chosen_by_its_id(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id was ignored: runs went to the experiment charlm. One that MLflow made was taken for a moved project's."""
    own = Store(root)
    mine = own.client.create_experiment("mine", artifact_location=str(root / "mlruns/mine"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mine)
    assert Store(root).experiment_id == mine != own.experiment_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert Store(root).experiment_id == mine
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "yours")
    with pytest.raises(CharlmError, match=rf"its experiment {mine} is mine, but MLFLOW_EXPERIMENT_NAME=yours\."):
        Store(root)
    for wrong in ("77", "mine"):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", wrong)
        with pytest.raises(CharlmError, match=f"{wrong}(?s:.*)Unset MLFLOW_EXPERIMENT_ID, or set it to the id of"):
            Store(root)


OPEN = "from charlm.tracking.store import Store; from pathlib import Path; Store(Path.cwd())\n"


def opened(folder: Path, run: Callable[..., Any], script: str, code: int = 0) -> str:
    """What a process prints that opens the store of `folder` with none of our variables set."""
    bare = ("env", "--ignore-environment", f"PYTHONPATH={PROJECT}")
    return str(run(folder, *bare, sys.executable, "-c", script, code=code).stdout)


def test_two_processes_may_meet_in_a_folder_without_a_store(tmp_path: Path, run: Callable[..., Any]) -> None:
    """One of them lost: MLflow's own lock does not cover all that it does to a new database.

    And MLflow's telemetry was on, outside of CI.
    """
    telemetry = "from mlflow.telemetry import client, utils\n"
    telemetry += "print(client.get_telemetry_client(), utils.is_telemetry_disabled())\n"
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: opened(tmp_path, run, OPEN + telemetry), range(2)))
    assert answers == ["None True\n"] * 2


def test_process_killed_while_it_makes_the_tables_leaves_none(tmp_path: Path, run: Callable[..., Any]) -> None:
    """It left some of them, and every later process failed on these."""
    end = "lambda _, count=itertools.count(): next(count) == 30 and os._exit(9)"
    killed = f"import itertools, os, sqlalchemy; sqlalchemy.event.listen(sqlalchemy.Engine, 'commit', {end})\n"
    opened(tmp_path, run, killed + OPEN, code=9)
    assert (tmp_path / "mlflow.db").stat().st_size == 0
    opened(tmp_path, run, OPEN)
    assert (tmp_path / "mlflow.db").stat().st_size > 0


@pytest.mark.parametrize("change", [shutil.move, shutil.copytree])
def test_store_whose_folder_was_moved_or_copied_is_reported_by_its_place_on_record(
    root: Path, tmp_path: Path, change: Callable[..., Any]
) -> None:
    """A copy wrote its artifacts into the original."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    shutil.copy(root / "mlflow.db", old)
    Store(old)
    change(old, new)
    with pytest.raises(CharlmError) as error:
        Store(new)
    assert (
        f"its artifacts are on record in {old / 'mlartifacts'}: was the project's folder moved or copied?"
        in error.value.message
    )
    assert "Moving the project's folder" in error.value.message


@pytest.mark.parametrize("uri", ["", "sqlite:///mlflow.db"])
def test_copied_project_with_an_empty_or_its_own_address_is_no_other_than_one_without(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    """With the variable set the copy wrote its artifacts into the original, even if it was empty."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    copy = tmp_path / "copy"
    copy.mkdir()
    Store(root)
    shutil.copy(root / "mlflow.db", copy)
    with pytest.raises(CharlmError, match=r"was the project's folder moved or copied\?"):
        Store(copy)


def test_empty_variables_are_unset(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty, some of them were taken for a value: MLflow then failed at the first request."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_HTTP_REQUEST_TIMEOUT")
    for name in (*names, "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_CONTEXT", "CHARLM_TRACKING", "DVC_EXP_NAME"):
        monkeypatch.setenv(name, "")
    store = Store(root)
    assert enabled()
    assert Origin.here().experiment is None
    assert store.client.get_experiment(store.experiment_id).name == "charlm"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "20"


@pytest.mark.parametrize("name", ["what?", "100%25 done", "#1", "a b@c:d, é"])
def test_store_is_in_the_project_s_folder_whatever_its_name(
    root: Path, name: str, content: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address was the path behind a prefix, so that what? had its store in what."""
    project = root / name
    project.mkdir()
    shutil.copy(root / "mlflow.db", project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    [run_id] = record(Store(project), content(), Origin(project, None))
    with closing(sqlite3.connect(project / "mlflow.db")) as database:
        assert database.execute("SELECT run_uuid FROM runs").fetchall() == [(run_id,)]
    assert (project / "mlartifacts" / run_id / "artifacts/patch.diff").is_file()
    assert {path.name for path in root.iterdir() if path.is_dir()} == {name}


def test_relative_address_means_the_project_s_folder_from_wherever_it_is_read(
    root: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the temporary folder of `dvc exp run --temp` it meant that folder, and vanished with it."""
    project = root / "project"
    project.mkdir()
    for name in ("runs.db", "models.db"):
        shutil.copy(empty_store, project / name)
    (root / "mlflow.db").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///models.db")
    store = Store(project)
    store.client.create_registered_model("charlm")
    for name, query in {
        "runs.db": "SELECT name FROM experiments",
        "models.db": "SELECT name FROM registered_models",
    }.items():
        with closing(sqlite3.connect(project / name)) as database:
            assert ("charlm",) in database.execute(query).fetchall()
    assert [path.name for path in root.iterdir()] == ["project"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        ("", ""),
        ("mirror", "/project/mirror"),
        ("/mirror", "/mirror"),
        ("https://example.org/a", "https://example.org/a"),
        ("sqlite:///a.db", "sqlite:////project/a.db"),
        ("sqlite:////a.db", "sqlite:////a.db"),
        ("sqlite://", "sqlite://"),
        ("postgresql+psycopg2://me:secret@host/runs", "postgresql+psycopg2://me:secret@host/runs"),
        ("databricks", "databricks"),
    ],
)
def test_address_is_read_with_relative_paths_in_the_project_s_folder(
    monkeypatch: pytest.MonkeyPatch, value: str | None, expected: str
) -> None:
    monkeypatch.delenv("AN_ADDRESS", raising=False)
    if value is not None:
        monkeypatch.setenv("AN_ADDRESS", value)
    assert address("AN_ADDRESS", Path("/project")) == expected


@pytest.mark.parametrize("uri", ["file:./mlruns", "mlruns", "databricks", "s3://bucket/runs"])
def test_store_of_another_kind_is_refused_with_the_kinds_there_are(
    root: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    """The message was SQLAlchemy's: Could not parse SQLAlchemy URL from given URL string."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    message = refusal(root, uri if ":" in uri or uri == "databricks" else str(root / uri))
    assert "it is neither a database nor a server" in message
    assert "sqlite:///mlflow.db" in message
    assert "mlflow migrate-filestore" in message


@pytest.mark.parametrize("revision", ["451aebb31d03", "ffffffffffff"], ids=["older", "newer"])
def test_tables_of_another_mlflow_are_reported_with_what_to_do_for_each(root: Path, revision: str) -> None:
    with sqlite3.connect(root / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", [revision])
    database.close()
    before = (root / "mlflow.db").read_bytes()
    with pytest.raises(CharlmError) as error:
        Store(root)
    assert f"mlflow db upgrade sqlite:///{root}/mlflow.db. If it is newer, install that MLflow." in error.value.message
    assert "CHARLM_TRACKING=off" in error.value.message
    assert (root / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql+psycopg2://me:secret@127.0.0.1:9/runs",
        "mysql://me:secret@127.0.0.1/x",
        "http://me:secret@127.0.0.1:9",
    ],
)
def test_store_that_is_not_there_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(CharlmError) as error:
        Store(tmp_path)
    assert error.value.message.startswith("MLflow cannot use its store ")
    assert "secret" not in error.value.message


def test_password_in_an_address_is_not_without_password() -> None:
    assert without_password("postgresql://me:secret@host:5432/runs") == "postgresql://host:5432/runs"
    assert without_password("postgresql://me:a/b@c@host/runs") == "postgresql://host/runs"
    assert without_password("'http://me:secret@host' and http://other/a") == "'http://host' and http://other/a"
    assert without_password("sqlite:////home/me/mlflow.db") == "sqlite:////home/me/mlflow.db"
    assert "secret" not in store_error("http://me:secret@host", "refused by http://me:secret@host").message


@pytest.fixture
def mounted(tmp_path: Path, run: Callable[..., Any]) -> Iterator[Path]:
    """A file system of four megabytes."""
    if os.geteuid():
        pytest.skip("needs root, to mount a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"needs to mount a file system: {made.stderr!r}")
    yield folder
    run(tmp_path, "umount", "--lazy", str(folder))


def test_store_that_cannot_be_written_is_reported_before_the_training(
    root: Path, mounted: Path, run: Callable[..., Any]
) -> None:
    shutil.copy(root / "mlflow.db", mounted)
    run(root, "mount", "-o", "remount,ro", str(mounted))
    assert "It cannot be written to: change the permissions of the file and its folder." in refusal(
        mounted, f"sqlite:///{mounted}/mlflow.db"
    )
    run(root, "mount", "-o", "remount,rw", str(mounted))
    fill(mounted)
    assert "The disk is full or failing: free some space." in refusal(mounted, f"sqlite:///{mounted}/mlflow.db")


def test_telemetry_stays_on_when_a_person_turns_it_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    Store(root)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


class Page(BaseHTTPRequestHandler):
    """Answers everything with a web page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Log in</title>")

    def log_message(self, *_: Any) -> None:
        pass


def test_web_page_and_proxy_in_the_server_s_place_are_reported_as_such(
    root: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One was shown as all of its HTML, the other as a server that is away."""
    with HTTPServer(("127.0.0.1", 0), Page) as server, serving(server):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}/#/experiments/1")
        with pytest.raises(
            CharlmError, match=r"JSON format\.\nWhat answers there is a web page(?s:.*) to the server alone"
        ):
            Store(root)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(CharlmError, match="Correct HTTP_PROXY or HTTPS_PROXY: that proxy does"):
            Store(root)


def test_unknown_problem_is_shown_complete() -> None:
    known, unknown = OSError("database is locked\n[SQL: SELECT 1]"), OSError("something new\nwith its details")
    assert reason(known) == "database is locked"
    assert reason(OSError("database is locked\nby you\n[SQL: SELECT\n1]")) == "database is locked\nby you"
    assert reason(unknown) == "something new\nwith its details"
    assert (
        "something new\nwith its details\nOr set MLFLOW_TRACKING_URI" in store_error("x://y", reason(unknown)).message
    )


def fill(folder: Path) -> None:
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while file.write(b"0" * 4096):
            pass


def test_disk_that_fills_up_does_not_stop_a_training(
    root: Path, mounted: Path, content: Callable[..., Any], course: Callable[..., Any]
) -> None:
    shutil.copy(root / "mlflow.db", mounted)
    result, warnings = content(), []
    with live_run(mounted, warn=warnings.append) as live:
        live.begin({"train.seed": 1})
        live.log(result.points[0], None)
        fill(mounted)
        for step in range(10_000):
            live.log(Point(step, 1.0, 1.0, 1.0), 1.0)
        live.finish(result.checkpoint)
    assert "disk" in warnings[0]
    (mounted / "filler").unlink()
    assert record(Store(mounted), result, Origin(Path(), None))
