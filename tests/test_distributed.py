"""Training in several processes, by torchrun on one host and on two: the same bytes, or one clear error and no rest."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from mlflow import MlflowClient
from torch.distributed import TCPStore

from charlm.errors import CharlmError
from charlm.training.launcher import relaunch
from charlm.training.processes import joined
from tests import every_process
from tests.trainings import add_hook, only_run, run_train, set_train

PROJECT = Path(__file__).resolve().parent.parent
TRAIN = (sys.executable, "-m", "stages.train", "data/prepare", "out")
LOST = "has lost another one: "


@pytest.fixture
def several(project: Path) -> Path:
    """A project whose iterations several processes can share, with a hook at step 20."""
    set_train(project, gradient_accumulation_steps=4)
    add_hook(project)
    return project


def change_processes(project: Path, code: str) -> None:
    """Add `code` to the module of the processes."""
    with (project / "charlm/training/processes.py").open("a") as module:
        module.write(code)


def torchrun(processes: int, *options: str) -> str:
    return " ".join(["torchrun", f"--nproc-per-node={processes}", *options])


def results(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("model.safetensors", "history.csv")]


def notes(project: Path) -> list[tuple[str, str]]:
    """Status and note of each run, the first one first."""
    runs = MlflowClient(f"sqlite:///{project / 'mlflow.db'}").search_runs(["1"], order_by=["start_time"])
    return [(run.info.status, run.data.tags.get("mlflow.note.content", "")) for run in runs]


def left_in(project: Path) -> list[psutil.Process]:
    """The processes whose folder is `project`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(project):
                found.append(process)
    return found


@contextmanager
def training(project: Path, launcher: str, *inside: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A training run, its messages in a pipe; at the end all of its processes are killed."""
    settings = os.environ | {"CHARLM_LAUNCHER": launcher} | environment
    with subprocess.Popen(
        [*inside, *TRAIN], cwd=project, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            for other in left_in(project):
                other.kill()


def failure(project: Path, launcher: str, **environment: str) -> str:
    """The messages of a training run that fails, and of which no process and no file is left."""
    with training(project, launcher, **environment) as process:
        _, errors = process.communicate()
        assert left_in(project) == []
    assert process.returncode != 0, errors
    assert list((project / "out").glob("*")) == []
    return errors


# The same result


@pytest.mark.long
def test_every_process_of_four_comes_to_the_bits_of_one(run: Callable[..., Any], tmp_path: Path) -> None:
    """A sum of each process's sum has other last bits, and rounding only mostly hides them. Below it is two.

    So do runs that one process began and four finish, and the reverse.
    """
    one, four = tmp_path / "one", tmp_path / "four"
    one.mkdir()
    four.mkdir()
    expected = every_process.results(None, one) | every_process.order(None)
    (one / "after").rename(four / "before")
    run(PROJECT, *torchrun(4, "-m", "tests.every_process", str(four)).split())
    found = [json.loads((four / str(rank)).read_text()) for rank in range(4)]
    assert found == [expected | {"resumed": expected["exact"]}] * 4
    assert every_process.resumed(None, four / "after") == expected["exact"]


def test_dvc_repro_under_the_launcher_gives_the_files_of_one_process_and_one_run(
    several: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    """And the launcher hears no hangup under nohup, of which it knows nothing by itself."""
    run_train(several, "out", CHARLM_TRACKING="off")
    settings = {
        "CHARLM_LAUNCHER": torchrun(2, f"--log-dir={tmp_path}", "--redirects=3"),
        "AT_STEP_20_IN_0": f"os.kill(os.getppid(), {int(signal.SIGHUP)})",
    }
    run(several, "nohup", "dvc", "repro", "--single-item", "train", **settings)
    assert results(several / "data/train") == results(several / "out")
    assert only_run(several).info.status == "FINISHED"
    assert "charlm.checkpoint_sha256" in only_run(several).data.tags
    assert sorted(log.parent.name for log in tmp_path.rglob("stderr.log")) == ["0", "1"]


# One host, and what goes wrong

BEFORE_THEY_MET = """
_all_agree = _agree

def _agree(store, agreed):
    if rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        store.wait(["agreed/0"])
        raise MemoryError("no room for the text")
    _all_agree(store, agreed)
"""


@pytest.mark.long
def test_process_that_dies_fails_the_run_and_nothing_is_left(several: Path) -> None:
    """One that died before all had met used to leave the first one deaf, and its run running for ever.

    In the last of four attempts every process fails.
    """
    change_processes(several, BEFORE_THEY_MET)
    deaths = ["", "os.kill(os.getpid(), 9)", "raise CharlmError('No room for a batch.')", "raise CharlmError('No.')"]
    attempt = "os.environ['TORCHELASTIC_RESTART_COUNT']"
    errors = failure(
        several,
        torchrun(2, "--max-restarts=3"),
        AT_STEP_20_IN_0=f"if {attempt} == '3': {deaths[3]}",
        AT_STEP_20_IN_1=f"exec({deaths}[int({attempt})])",
    )
    for message in ("MemoryError: no room for the text\n", "Error: No room for a batch.\n", "Error: No.\n"):
        assert message in errors
    lost = ("FAILED", "Process 0 of 2 has lost another one")
    assert [(status, note.partition(":")[0]) for status, note in notes(several)] == [lost] * 3 + [("FAILED", "No.")]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_launcher_ends_the_run_as_killed_and_nothing_is_left(several: Path, stop: signal.Signals) -> None:
    code = f"import signal; os.kill(os.getppid(), {int(stop)}); signal.pause()"
    errors = failure(several, torchrun(2), AT_STEP_20_IN_0=code)
    assert f"got signal: {int(stop)}\n" in errors
    assert only_run(several).info.status == "KILLED"


def test_processes_end_when_their_launcher_is_gone(several: Path) -> None:
    """A launcher that gets SIGKILL ends nothing: its processes used to train on."""
    code = "parent = os.getppid(); os.kill(parent, 9)\nwhile os.getppid() == parent: pass"
    errors = failure(several, torchrun(2), AT_STEP_20_IN_0=code)
    assert f"Error: Process 0 of 2 {LOST}the launcher has ended.\n" in errors
    assert only_run(several).info.status == "FAILED"


def test_number_of_processes_that_does_not_fit_is_reported_before_there_is_a_run(project: Path) -> None:
    found = run_train(project, "out", code=1, TORCHELASTIC_RUN_ID="1", RANK="0", WORLD_SIZE="2")
    assert found.startswith(
        "Error: 2 processes cannot share train.gradient_accumulation_steps=1 evenly.\n"
        "Each computes whole micro-batches: expected a multiple of 2.\n"
    )
    assert notes(project) == []


@pytest.mark.parametrize(
    ("launcher", "problem"),
    [
        ("torchran --nproc-per-node 2", "No such file or directory."),
        ("torchrun '", "No closing quotation."),
    ],
)
def test_launcher_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch, launcher: str, problem: str) -> None:
    monkeypatch.setenv("CHARLM_LAUNCHER", launcher)
    with pytest.raises(CharlmError) as err:
        relaunch("stages.train", [])
    assert err.value.message == (
        f"CHARLM_LAUNCHER={launcher}: {problem}\n"
        'Set it to a command such as "torchrun --nproc-per-node 2", or unset it to train in one process.'
    )


def test_launcher_of_another_kind_is_reported(project: Path, run: Callable[..., Any]) -> None:
    """Under mpirun, say, each process used to train the whole, and write to the same files."""
    done = run(project, *TRAIN, code=1, CHARLM_LAUNCHER="python")
    assert done.stderr.startswith(
        "Error: CHARLM_LAUNCHER=python: it did not set the variables by which torchrun numbers its processes.\n"
    )


@pytest.fixture
def first_of_three(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The store and the variables of torchrun in the first of three processes; the others never start."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"RANK": 0, "WORLD_SIZE": 3, "LOCAL_WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
    agent = {"RUN_ID": 1, "RESTART_COUNT": 0, "USE_AGENT_STORE": True}
    for name, value in (place | {f"TORCHELASTIC_{name}": value for name, value in agent.items()}).items():
        monkeypatch.setenv(name, str(value))
    return store


@pytest.mark.usefixtures("first_of_three")
def test_too_few_devices_are_reported() -> None:
    with pytest.raises(CharlmError) as err, joined(torch.device("mps"), dict):
        pass
    assert err.value.message == (
        "train.device=mps: torchrun has started 3 processes on this host.\n"
        "Expected at most 0, one for each such device that can train with others.\n"
        "Unset CHARLM_LAUNCHER, or train with train.device=cpu."
    )


@pytest.mark.usefixtures("first_of_three")
def test_process_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.training.processes.START_TIMEOUT", timedelta(seconds=0.2))
    message = r"^Process 0 of 3 has lost another one: process 1, 2 did not start within 0:00:00\.200000\.\n"
    with pytest.raises(CharlmError, match=message), joined(torch.device("cpu"), dict):
        pass


# Two hosts


def test_hosts_that_are_not_about_to_train_the_same_are_told_apart(
    several: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """They used to train what was nobody's, and say nothing: `dvc exp run -S` changes one host's params.yaml."""
    folders = [several.rename(tmp_path / "host0"), tmp_path / "host1"]
    shutil.copytree(*folders)
    set_train(folders[1], learning_rate=0.01)
    there = 'cd "host$RANK" && exec "$0" "$@"'
    done = run(tmp_path, *torchrun(2, "--no-python").split(), "bash", "-c", there, *TRAIN, code=1)
    expected = (
        "Error: The processes would not train the same model. They differ from process 0 in:\n"
        "  params.yaml: process 1\n"
        "Bring the hosts to the same commit, params.yaml, packages and prepared text, then train again.\n"
    )
    assert done.stderr.count(expected) == 2
    assert [[status for status, _ in notes(folder)] for folder in folders] == [["FAILED"], []]
    assert [list((folder / "out").glob("*")) for folder in folders] == [[], []]


ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces, joined only by a link named `eth0` on both sides, each with its own loopback."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2, to make network namespaces")
    names = [f"charlm{os.getpid()}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def train_on(hosts: list[str], folders: list[Path], **environment: str) -> list[str]:
    """The messages of a training run in one process on each of `hosts`, each in its folder; none is left."""
    options = ("--nnodes=2", f"--master-addr={ADDRESSES[0]}", "--master-port=29500")
    nodes = [torchrun(1, *options, f"--node-rank={node}") for node in range(2)]
    inside = [["ip", "netns", "exec", host, "env", "GLOO_SOCKET_IFNAME=eth0"] for host in hosts]
    with (
        training(folders[0], nodes[0], *inside[0], **environment) as first,
        training(folders[1], nodes[1], *inside[1], **environment) as second,
    ):
        errors = [process.communicate()[1] for process in (first, second)]
        assert [left_in(folder) for folder in folders] == [[], []]
    assert first.returncode == second.returncode
    return [f"{process.returncode}\n{error}" for process, error in zip((first, second), errors, strict=True)]


@pytest.mark.long
def test_two_hosts_whose_link_is_cut_fail_clearly_and_train_the_same_once_it_is_restored(
    several: Path, hosts: list[str], tmp_path: Path, run: Callable[..., Any]
) -> None:
    change_processes(several, "\nTIMEOUT = timedelta(seconds=5)\n")
    folders = [several, tmp_path / "the other host"]
    shutil.copytree(*folders)

    cut = f"import subprocess; subprocess.run(['ip', '-n', {hosts[1]!r}, 'link', 'set', 'eth0', 'down'], check=True)"
    errors = train_on(hosts, folders, AT_STEP_20_IN_1=cut)
    for process, error in enumerate(errors):
        assert error.startswith("1\n")
        assert error.count(f"Error: Process {process} of 2 {LOST}") == 1
    assert only_run(several).info.status == "FAILED"
    assert [list((folder / "out").glob("*")) for folder in folders] == [[], []]

    ip("-n", hosts[1], "link", "set", "eth0", "up")
    errors = train_on(hosts, folders)
    assert [error[:2] for error in errors] == ["0\n", "0\n"], errors
    run_train(several, "one", CHARLM_TRACKING="off")
    assert results(several / "out") == results(several / "one")
    assert not (folders[1] / "out").exists()
    assert [status for status, _ in notes(several)] == ["FAILED", "FINISHED"]
    assert notes(folders[1]) == []
