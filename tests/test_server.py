"""A team's server as docs/server.md says to stand it up: PostgreSQL, basic auth, artifacts through the server.

It is stood up by the page's own commands and files, and reached through a line that loses what a test tells it to lose.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, cycle
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from charlm.cli import main
from charlm.config import flatten, load_params
from charlm.errors import CharlmError
from charlm.provenance.code import Origin
from charlm.tracking.content import Content
from charlm.tracking.live import live_run
from charlm.tracking.record import record
from charlm.tracking.store import Store
from charlm.training.history import from_csv
from tests.trainings import ARGUMENTS, in_one_process, invoke, refusal, run_record, set_train

pytestmark = pytest.mark.xdist_group("one PostgreSQL and its server")

Run = Callable[..., subprocess.CompletedProcess[str]]
LogIn = Callable[[dict[str, str]], None]
PAGE = (Path(__file__).resolve().parent.parent / "docs/server.md").read_text(encoding="utf-8")
BASH, PYTHON = ("bash", "-eu"), (sys.executable,)
USERS = ("ann", "bob")
TRAIN = ("python", "-m", "stages.train", "data/prepare", "out")


def block(text: str) -> str:
    """The one block of the page that holds `text`."""
    [found] = [block for block in re.findall(r"^```\w*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if text in block]
    return str(found)


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs, the newest there are."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    if initdb := shutil.which("initdb"):
        folders.append(Path(initdb).parent)
    if not folders:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    return folders[-1]


@contextmanager
def started(command: list[str], ready: str, end: signal.Signals, **how: Any) -> Iterator[None]:
    """A program in a session of its own, once it has written `ready`; `end` ends it with all that it started."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **how) as program:
        assert program.stderr is not None
        output: list[str] = []
        try:
            for line in program.stderr:
                output.append(line)
                if ready in line:
                    break
            assert program.poll() is None, "".join(output)
            reader = Thread(target=_read_on, args=(program.stderr,))
            reader.start()
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, end)
            program.wait()
        reader.join()


def _read_on(stream: IO[str]) -> None:
    for _ in stream:
        pass


@contextmanager
def postgres(programs: Path) -> Iterator[Path]:
    """An empty PostgreSQL on a socket in a folder of its own, which is yielded."""
    owner = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="pg") as name:  # a socket's path is short
        if owner:
            shutil.chown(name, owner, owner)
        how: dict[str, Any] = {"cwd": name, "user": owner, "group": owner, "extra_groups": owner and []}
        initdb = [programs / "initdb", "--pgdata=data", "--username=postgres", "--auth=trust", "--no-sync"]
        subprocess.run([*initdb, "--encoding=UTF8", "--no-locale"], check=True, capture_output=True, **how)
        settings = {"listen_addresses": "", "unix_socket_directories": name, "fsync": "off", "full_page_writes": "off"}
        options = [f"--{key}={value}" for key, value in settings.items()]
        command = [str(programs / "postgres"), "-D", "data", *options]
        with started(command, "ready to accept connections", signal.SIGINT, **how):
            yield Path(name)


@dataclass(frozen=True)
class Team:
    """The server that is up, and who may log in."""

    port: int
    passwords: dict[str, str]
    here: dict[str, str]
    """What the page's places are called here."""
    environment: dict[str, str]
    """What its commands on the server need."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def user(self, name: str, experiment: str = "charlm", address: str | None = None) -> dict[str, str]:
        """The environment of a checkout of theirs."""
        return {
            "MLFLOW_TRACKING_URI": address or self.address,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": self.passwords[name],
            "MLFLOW_EXPERIMENT_NAME": experiment,
        }

    def on_the_server(self, text: str, interpreter: Sequence[str] = BASH, **environment: str) -> str:
        """What a block of the page prints on the server, run as admin."""
        return said(put(text, self.here), interpreter, self.environment | environment)


def said(text: str, interpreter: Sequence[str], environment: dict[str, str]) -> str:
    """What `interpreter` prints for the text."""
    settings = os.environ | environment
    done = subprocess.run(interpreter, input=text, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def put(text: str, here: dict[str, str]) -> str:
    for place, instead in here.items():
        text = text.replace(place, instead)
    return text


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The page's server, users included."""
    programs, folder, port = postgres_programs(), tmp_path_factory.mktemp("server"), free_port()
    with postgres(programs) as sockets:
        here = {
            "sudo -u postgres ": "",
            "/var/run/postgresql": str(sockets),
            "/etc/mlflow": str(folder),
            "/srv/mlflow": str(folder),
            "127.0.0.1:5000": f"127.0.0.1:{port}",
            "--port 5000": f"--port {port}",
            "--workers 2": "--workers 1",
        }
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        there = {"PGHOST": str(sockets), "PGUSER": "postgres", "PATH": path}
        said(put(block("createuser mlflow"), here), BASH, there)
        (folder / "auth.ini").write_text(put(block("default_permission"), here))
        settings = dict(line.split("=", 1) for line in put(block("MLFLOW_BACKEND_STORE_URI="), here).splitlines())
        [line] = re.findall(r"^ExecStart=\S+/mlflow (.*)$", block("[Service]"), re.MULTILINE)
        command = [sys.executable, "-m", "mlflow", *put(line, here).split()]
        with started(command, "Application startup complete", signal.SIGTERM, cwd=folder, env=os.environ | settings):
            password = settings["MLFLOW_AUTH_ADMIN_PASSWORD"]
            admin = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
            users = said(put(block("create_user"), here), PYTHON, settings | admin)
            yield Team(port, dict(line.split() for line in users.splitlines()), here, there | settings | admin)


class Fate(Enum):
    """What becomes of a request on the line."""

    ARRIVES = auto()
    LOST = auto()
    ANSWER_LOST = auto()
    NO_ANSWER = auto()


class Line(ThreadingHTTPServer):
    """A way to the server on which the fate of a request is decided by its number among those of its kind."""

    daemon_threads = False

    def __init__(self, port: int, fate: Callable[[int], Fate]) -> None:
        super().__init__(("127.0.0.1", 0), _OnTheLine)
        self.port, self.hung_up = port, Event()
        self.sent: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.decide(fate)

    def decide(self, fate: Callable[[int], Fate], kind: str = "") -> None:
        """Number the requests whose path has `kind` in it from 1 again; all others are 0."""
        self.fate, self.kind, self.numbers = fate, kind, count(1)

    def number(self, path: str) -> int:
        """That of the next request; its kind is kept."""
        self.sent.append(re.sub(r"\?.*|[0-9a-f]{32}|artifacts/\d.*", "", path))
        return next(self.numbers) if self.kind in path else 0


class _OnTheLine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Line

    def _forward(self) -> None:
        body = self._body()
        fate = self.server.fate(self.server.number(self.path))
        if fate is Fate.NO_ANSWER:
            self.server.hung_up.wait()
        if fate in {Fate.ARRIVES, Fate.ANSWER_LOST}:
            status, headers, answer = self._ask(body)
        if fate is not Fate.ARRIVES:
            self.close_connection = True
            return
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"transfer-encoding", "content-length", "connection"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("Connection", "close")  # so that no thread waits for a next request
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815

    def _body(self) -> bytes:
        """The request's; requests sends an empty file in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        ours = {"host", "transfer-encoding", "content-length", "connection", "accept-encoding"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ours}
        asked = HTTPConnection("127.0.0.1", self.server.port)
        asked.request(self.command, self.path, body, headers)
        response = asked.getresponse()
        answer = response.read()
        asked.close()
        return response.status, response.getheaders(), answer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def line(team: Team, serving: Callable[..., Any]) -> Iterator[Line]:
    """A line on which everything arrives, for a test to make worse."""
    with Line(team.port, lambda _: Fate.ARRIVES) as line, serving(line):
        yield line
        line.hung_up.set()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty and outside of git."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def log_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """A function that makes an environment this process's own."""

    def log_in(environment: dict[str, str]) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return log_in


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return str(request.node.name)


@pytest.fixture
def checkout(project: Path) -> Path:
    """The finished project, without a store."""
    (project / "mlflow.db").unlink()
    return project


def runs(team: Team, experiment: str = "charlm") -> list[MlflowRun]:
    """The experiment's runs, oldest first."""
    client = MlflowClient(team.address)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))


def course(team: Team, run: MlflowRun, key: str) -> list[tuple[int, float]]:
    """Step and value of every point that was ever sent, in the order of their times."""
    return [(point.step, point.value) for point in MlflowClient(team.address).get_metric_history(run.info.run_id, key)]


def artifacts(team: Team, run: MlflowRun, folder: Path) -> dict[str, bytes]:
    """All that the run keeps, fetched through the server into `folder`."""
    found = Path(MlflowClient(team.address).download_artifacts(run.info.run_id, "", str(folder)))
    return {str(path.relative_to(found)): path.read_bytes() for path in found.rglob("*") if path.is_file()}


def assert_complete(team: Team, run: MlflowRun, checkout: Path, folder: Path) -> None:
    """The run is finished, has every file of the checkout's results, and every point once, in order."""
    assert run.info.status == "FINISHED"
    points = from_csv((checkout / "data/train/history.csv").read_text())
    for key, field in {"loss/train": "train_loss", "loss/test": "test_loss", "loss/batch": "batch_loss"}.items():
        values = [(point.step, getattr(point, field)) for point in points]
        assert course(team, run, key) == [(step, value) for step, value in values if value is not None]
    for key in ("perplexity/test", "bits_per_char/train"):
        assert len(course(team, run, key)) == 1
    assert run.data.params.keys() == flatten(load_params(checkout / "params.yaml")).keys()
    assert len(run.inputs.dataset_inputs) == 2
    assert "nats per character" in run.data.tags["mlflow.note.content"]
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    found = artifacts(team, run, folder)
    assert found["checkpoint/model.safetensors"] == (checkout / "data/train/model.safetensors").read_bytes()
    assert {"figures/loss.png", "samples/trained.txt", "patch.diff", "environment.json"} < found.keys()


@pytest.fixture
def result(content: Callable[..., Content]) -> Content:
    """A small result to record."""
    return content(texts={"note.txt": "n"})


def recorded(folder: Path, result: Content) -> list[str]:
    return record(Store(folder), result, Origin.here())


def assert_has_content(team: Team, run: MlflowRun) -> None:
    assert run.info.status == "FINISHED"
    assert (len(run.data.params), run.data.params["train.seed"]) == (8, "1")
    assert course(team, run, "loss/train") == [(0, 3.0), (10, 2.0), (15, 1.5)]
    assert course(team, run, "loss/test") == [(0, 3.1), (10, 2.1), (15, 1.6)]
    assert course(team, run, "loss/batch") == [(10, 2.05), (15, 1.55)]
    assert course(team, run, "perplexity/test") == [(15, 4.9)]
    assert course(team, run, "reference/uniform") == [(0, 4.4), (15, 4.4)]
    assert run.data.tags["mlflow.note.content"].startswith("`charlm reproduce ")
    assert run.data.tags["mlflow.note.content"].endswith("\n\nA note")
    names = {entry.path for entry in MlflowClient(team.address).list_artifacts(run.info.run_id)}
    assert names == {"note.txt", "environment.json", "patch.diff"}
    [model] = MlflowClient(team.address).search_logged_models([run.info.experiment_id])
    assert model.status == "READY"
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    figures = {"loss/train": 1.5, "loss/test": 1.6, "perplexity/test": 4.9, "reference/uniform": 4.4}
    assert {metric.key: metric.value for metric in model.metrics} == figures


# Two checkouts, two users


def test_two_checkouts_log_at_once_as_two_users_and_a_forced_repro_changes_no_byte(
    team: Team, checkout: Path, run: Run, log_in: LogIn, tmp_path: Path
) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in [*(checkout / "data").rglob("*.*"), checkout / "dvc.lock"]}

    before = files()
    checkouts = {"ann": checkout, "bob": tmp_path / "bob"}
    shutil.copytree(checkout, checkouts["bob"])
    rates = {"ann": 0.0003, "bob": 0.002}
    set_train(checkouts["bob"], learning_rate=rates["bob"])
    from_train = {stage: ARGUMENTS[stage] for stage in ("train", "evaluate", "sample", "record")}
    commands = {"ann": ["dvc", "repro", "--force"], "bob": in_one_process(from_train, checkouts["bob"])}
    log_in(team.user("ann"))
    Store(checkout)
    team.on_the_server(block("get_experiment_by_name"), PYTHON)
    with ThreadPoolExecutor() as both:
        pipelines = [both.submit(run, checkouts[user], *commands[user], **team.user(user)) for user in USERS]
        for pipeline in pipelines:
            pipeline.result()
    by_rate = {found.data.params["train.learning_rate"]: found for found in runs(team)}
    assert by_rate.keys() == {str(rate) for rate in rates.values()}
    for user, folder in checkouts.items():
        found = by_rate[str(rates[user])]
        assert found.data.tags["charlm.origin"] == "trained"
        assert_complete(team, found, folder, tmp_path)
        for local in ("mlflow.db", "mlartifacts", "mlruns"):
            assert not (folder / local).exists()
    assert files() == before
    assert run(checkout, "git", "status", "--porcelain").stdout == ""


def test_checkouts_that_meet_in_a_new_experiment_share_it(
    team: Team, tmp_path: Path, log_in: LogIn, experiment: str
) -> None:
    log_in(team.user("ann", experiment))
    with ThreadPoolExecutor(4) as many:
        assert len({store.experiment_id for store in many.map(Store, [tmp_path] * 4)}) == 1


def test_ui_names_the_server_and_opens_nothing(
    team: Team, checkout: Path, log_in: LogIn, experiment: str, monkeypatch: Any
) -> None:
    log_in(team.user("ann", experiment))
    monkeypatch.chdir(checkout)
    result = CliRunner().invoke(main, ["ui", "--no-browser"])
    assert result.exit_code == 0, result.output
    page = f"/#/experiments/{Store(checkout).experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=charlm"
    assert f"The runs: {team.address}{page}\n" in result.output
    assert not (checkout / "mlflow.db").exists()


def test_champion_is_promoted_and_asked_by_whoever_may(
    team: Team, checkout: Path, log_in: LogIn, experiment: str
) -> None:
    def charlm(*arguments: str, code: int = 0) -> str:
        return invoke(checkout, main, arguments, code).output

    log_in(team.user("ann", experiment))
    assert "recorded as run" in charlm("sync")
    assert "is recorded already" in charlm("sync")
    assert "is version 1 of the model charlm and now the champion" in charlm("promote")
    generate = ("generate", "--seed", "7", "--length", "20")
    texts = [charlm(*generate, *model).split("\n", 1)[1] for model in (("--model", "models:/charlm@champion"), ())]
    assert texts[0] == texts[1]  # after the line that names the model
    MlflowClient(team.address).delete_registered_model_alias("charlm", "champion")
    log_in(team.user("bob", experiment))
    assert "Ask its owner or an administrator to let bob write to the registered model charlm" in charlm(
        "promote", code=1
    )
    team.on_the_server(block("registered_model"), PYTHON)
    assert "is version 1 of the model charlm and now the champion" in charlm("promote")


# A server that refuses


def test_wrong_password_is_reported_before_training(team: Team, log_in: LogIn, here: Path) -> None:
    log_in(team.user("ann") | {"MLFLOW_TRACKING_PASSWORD": "not-hers"})
    message = refusal(here, os.environ["MLFLOW_TRACKING_URI"])
    assert "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user that the server knows." in message
    assert "not-hers" not in message


def test_missing_permission_is_reported_before_training(team: Team, log_in: LogIn, experiment: str, here: Path) -> None:
    log_in(team.user("ann", experiment))
    Store(here)
    log_in(team.user("bob", experiment))
    output = refusal(here, os.environ["MLFLOW_TRACKING_URI"])
    assert "Permission denied" in output
    assert f"Ask its owner or an administrator to let bob write to the experiment {experiment}." in output
    assert runs(team, experiment) == []


def test_name_that_the_server_does_not_answer_to_is_reported_before_training(
    team: Team, log_in: LogIn, here: Path
) -> None:
    log_in(team.user("ann", address=f"http://localhost:{team.port}"))
    output = refusal(here, os.environ["MLFLOW_TRACKING_URI"])
    assert "Invalid Host header" in output
    assert "Ask its administrator to add localhost" in output


def test_only_the_page_s_own_web_address_may_write(team: Team) -> None:
    def status(origin: str) -> int:
        asked = HTTPConnection("127.0.0.1", team.port)
        asked.request("POST", "/api/2.0/mlflow/runs/search", b"{}", {"Origin": origin})
        answer = asked.getresponse().status
        asked.close()
        return answer

    assert status("https://mlflow.example.org") == 401  # let through, and asked for a password
    assert status("https://elsewhere.example.org") == 403


def test_server_that_never_answers_is_reported_before_training(log_in: LogIn, here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        log_in({"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        refusal(here, os.environ["MLFLOW_TRACKING_URI"])


# A server that goes away while we train


def once(fate: Fate, number: int) -> Callable[[int], Fate]:
    """The fate of the request of this number alone."""
    return lambda this: fate if this == number else Fate.ARRIVES


def from_then_on(fate: Fate, number: int) -> Callable[[int], Fate]:
    """The fate of the request of this number and of all after it, of whatever kind."""
    met = Event()

    def decide(this: int) -> Fate:
        if this == number:
            met.set()
        return fate if met.is_set() else Fate.ARRIVES

    return decide


@pytest.mark.parametrize("lost", [from_then_on, once], ids=["and stays away", "and comes back"])
def test_server_dies_in_mid_training(
    team: Team, checkout: Path, run: Run, line: Line, log_in: LogIn, experiment: str, lost: Any, tmp_path: Path
) -> None:
    """The first batch has the parameters, the second the state of the machine, the third the first points."""
    line.decide(lost(Fate.LOST, 4), "runs/log-batch")
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    output = run(checkout, *TRAIN, **team.user("ann", experiment, line.address), **patience).stderr
    assert "The record stage completes the run of the result." in output
    for name in ("model.safetensors", "history.csv"):
        assert (checkout / "out" / name).read_bytes() == (checkout / "data/train" / name).read_bytes()
    log_in(team.user("ann", experiment))
    run_record(checkout)
    [found] = runs(team, experiment)
    assert found.data.tags["charlm.origin"] == "trained"
    assert_complete(team, found, checkout, tmp_path)


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.ANSWER_LOST, Fate.NO_ANSWER])
def test_every_point_of_a_training_on_a_bad_line_is_there_once(
    team: Team, line: Line, log_in: LogIn, experiment: str, fate: Fate, result: Content, here: Path
) -> None:
    """Its third batch, the first points, is lost, or only the receipt, or nothing ever comes back."""
    line.decide(once(fate, 3), "runs/log-batch")
    log_in(team.user("ann", experiment, line.address) | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1"})
    with live_run(here, warn=print) as run:
        run.begin({"train.seed": 1})
        for point in result.points:
            run.log(point, None)
        run.finish(result.checkpoint)
    recorded(here, result)
    [found] = runs(team, experiment)
    assert found.data.tags["charlm.origin"] == "trained"
    assert_has_content(team, found)


# A record that does not get through


def test_record_cut_short_anywhere_is_finished_by_the_next(
    team: Team, line: Line, log_in: LogIn, experiment: str, result: Content, here: Path
) -> None:
    """Each is cut at the first request of a kind that none before it has sent; lost are requests and answers."""
    log_in(team.user("ann", experiment, line.address) | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
    messages: list[str] = []
    for fate in cycle([Fate.LOST, Fate.ANSWER_LOST]):
        known = set(line.sent)
        line.decide(partial(lambda known, fate, _: Fate.ARRIVES if known.issuperset(line.sent) else fate, known, fate))
        try:
            recorded(here, result)
            break
        except CharlmError as error:
            messages.append(error.message)
    assert len(messages) > 10
    for message in messages:
        assert message.startswith(f"MLflow cannot use its store {line.address}: ")
        assert "`dvc repro --force --single-item record` records them later" in message
    line.decide(lambda _: Fate.ARRIVES)
    [found] = runs(team, experiment)
    assert_has_content(team, found)


def test_run_whose_receipt_is_lost_is_not_opened_a_second_time(
    team: Team, line: Line, log_in: LogIn, experiment: str, result: Content, here: Path
) -> None:
    """Sent again by the HTTP client it opened another."""
    log_in(team.user("ann", experiment, line.address))
    Store(here)
    line.decide(once(Fate.ANSWER_LOST, 1), "runs/create")
    with suppress(CharlmError):
        recorded(here, result)
    recorded(here, result)
    [found] = runs(team, experiment)
    assert_has_content(team, found)


def test_two_records_of_a_run_at_once_add_every_point_once(
    team: Team, line: Line, log_in: LogIn, experiment: str, result: Content, here: Path
) -> None:
    """The second batch has the points; before it arrives, another record of the same result comes and goes."""
    log_in(team.user("ann", experiment, line.address))
    Store(here).create_run("trained", {"charlm.checkpoint_sha256": result.checkpoint_sha256}, None)
    others: list[list[str]] = []

    def fate(number: int) -> Fate:
        if number == 2:
            others.append(recorded(here, result))
        return Fate.ARRIVES

    line.decide(fate, "runs/log-batch")
    assert [recorded(here, result)] == others
    [found] = runs(team, experiment)
    assert_has_content(team, found)


# The rest of the page


def test_backup_brings_back_runs_users_and_artifacts(
    team: Team, log_in: LogIn, experiment: str, result: Content, here: Path
) -> None:
    log_in(team.user("ann", experiment))
    [run_id] = recorded(here, result)
    owner = {"PGUSER": "mlflow"}
    team.on_the_server(block("pg_dump"), **owner)
    team.on_the_server(block("createdb").split("createuser mlflow\n")[1].replace("=mlflow mlflow", "=mlflow copy"))
    restored = here / "restored"
    restored.mkdir()
    restore = block("pg_restore").replace("--dbname=mlflow", "--dbname=copy")
    team.on_the_server(restore.replace("/srv/mlflow", str(restored)), **owner)
    before = MlflowClient(team.address).get_run(run_id)
    copy = MlflowClient(f"postgresql+psycopg2://mlflow@/copy?host={team.environment['PGHOST']}")
    assert copy.get_run(run_id).to_dictionary() == before.to_dictionary()
    query = ["psql", "--tuples-only", "--no-align", "--command=SELECT username FROM users ORDER BY id", "copy_auth"]
    assert team.on_the_server("", query).split() == ["admin", *USERS]
    place = before.info.artifact_uri.removeprefix("mlflow-artifacts:/")
    assert (restored / "artifacts" / place / "note.txt").read_text() == "n"
