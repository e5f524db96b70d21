"""Training in several processes, by torchrun on one host and on two: the same bytes, or one clear error and no rest."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient
from torch.distributed import HashStore

from charlm.config import TrainParams
from charlm.models.bigram import BigramLanguageModel
from charlm.random import seeded_generator
from charlm.text.corpus import Tokens
from charlm.training.history import to_csv
from charlm.training.loop import DTYPES, train
from charlm.training.processes import JoinError, LauncherError, Processes, SharedDeviceError, relaunch, shared
from tests.trainings import only_run, set_train

TRAIN = (sys.executable, "-m", "stages.train", "data/prepare", "out")
RESULTS = ("model.safetensors", "history.csv")
LOST = "lost another one: "


def results(project: Path, out: str) -> list[bytes]:
    return [(project / out / name).read_bytes() for name in RESULTS]


def torchrun(processes: int, *options: str) -> str:
    return " ".join(["torchrun", f"--nproc-per-node={processes}", *options])


def left_in(project: Path) -> list[psutil.Process]:
    """The processes whose folder is `project`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(project):
                found.append(process)
    return found


def has_trained(project: Path) -> bool:
    """Whether the store holds a point of the curve that lies behind the first iteration."""
    with closing(sqlite3.connect(project / "mlflow.db")) as store, suppress(sqlite3.OperationalError):
        query = "select count(*) from latest_metrics where key = 'loss/train' and step > 0"
        return bool(store.execute(query).fetchone()[0])
    return False


@contextmanager
def training(project: Path, launcher: str, *inside: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A training that runs, what it tells in a pipe; whatever of it is left at the end is killed."""
    settings = os.environ | {"CHARLM_LAUNCHER": launcher} | environment
    with subprocess.Popen(
        [*inside, *TRAIN], cwd=project, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            for other in left_in(project):
                other.kill()


def wait_until_it_trains(project: Path, *processes: subprocess.Popen[str]) -> None:
    while not has_trained(project):
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)


# The same result

V = 7
CASES: list[dict[str, Any]] = [
    {"batch_size": 8},
    {"batch_size": 7},
    {"batch_size": 3},  # of four processes one has nothing to do
    {"batch_size": 1},
    {"batch_size": 33, "block_size": 31, "learning_rate": 0.1},
    {"batch_size": 6, "dtype": "float32"},
]


def weights(case: dict[str, Any], processes: Processes | None) -> list[str]:
    """Every bit of the weights after a training, and its history, where that does not show a loss's last bits."""
    usual = {"seed": 1, "block_size": 8, "max_iters": 60, "learning_rate": 0.01, "weight_decay": 0.1}
    settings = TrainParams.model_validate(usual | {"eval_interval": 20, "device": "cpu", "dtype": "float64"} | case)
    tokens: Tokens = np.random.default_rng(0).integers(V, size=500, dtype=np.uint8)
    model = BigramLanguageModel(V, generator=seeded_generator(1, "weights"), dtype=DTYPES[settings.dtype])
    course = train(model, tokens[:400], tokens[400:], settings, seeded_generator(1, "batches"), processes=processes)
    points = to_csv(course)
    return [model.table.detach().numpy().tobytes().hex(), points if settings.dtype == "float64" else ""]


def in_every_process(folder: str) -> None:
    """What each process of the test below does."""
    with shared(torch.device("cpu"), dict) as processes:
        found = [weights(case, processes) for case in CASES]
    Path(folder, os.environ["RANK"]).write_text(json.dumps(found))


@pytest.mark.parametrize("processes", [2, 4])
def test_every_process_comes_to_the_weights_of_one_to_the_last_bit(
    processes: int, run: Callable[..., Any], tmp_path: Path
) -> None:
    """A sum of each process's sum has other last bits, and rounding only mostly hides them."""
    code = f"import runpy; runpy.run_path({__file__!r})['in_every_process']({str(tmp_path)!r})"
    launch = torchrun(processes, "--no-python").split()
    run(Path(__file__).parent.parent, *launch, sys.executable, "-c", code)
    expected = [weights(case, None) for case in CASES]
    found = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(processes)]
    assert found == [expected] * processes


def test_dvc_repro_under_the_launcher_leaves_the_lock_as_it_was_and_one_run(
    project: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    lock = (project / "dvc.lock").read_bytes()
    (project / "data/train/model.safetensors").unlink()
    launcher = torchrun(2, f"--log-dir={tmp_path}", "--redirects=3")
    run(project, "dvc", "repro", "--force", "--single-item", "train", CHARLM_LAUNCHER=launcher)
    assert (project / "dvc.lock").read_bytes() == lock
    assert only_run(project).info.status == "FINISHED"
    assert "charlm.checkpoint_sha256" in only_run(project).data.tags
    assert sorted(log.parent.name for log in tmp_path.rglob("stderr.log")) == ["0", "1"]


# One host, and what goes wrong

DIES = """
_drawn = batches

def until_tracked():
    import sqlite3, time
    with sqlite3.connect("mlflow.db") as store:
        while not store.execute("select count(*) from latest_metrics").fetchone()[0]:
            time.sleep(0.1)

def batches(*arguments):
    for number, batch in enumerate(_drawn(*arguments), start=1):
        if os.environ["RANK"] == "1" and number == {number}:
            {death}
        yield batch
"""


@pytest.mark.parametrize(
    ("number", "death", "told"),
    [
        (250, "os.kill(os.getpid(), 9)", "Signal 9 (SIGKILL)"),
        (250, "raise CharlmError('No room for a batch.')", "Error: No room for a batch.\n"),
        (1, "until_tracked(); raise MemoryError('no room for a batch')", "MemoryError: no room for a batch"),
    ],
    ids=["killed", "an error of its own", "before they met"],
)
def test_process_that_dies_fails_the_run_with_its_error_and_nothing_is_left(
    project: Path, number: int, death: str, told: str
) -> None:
    """One that died before all had met used to leave the first one deaf, and its run running for ever."""
    corpus = project / "charlm/corpus.py"
    corpus.write_text(f"import os\n{corpus.read_text()}{DIES.format(number=number, death=death)}")
    with training(project, torchrun(2)) as process:
        _, errors = process.communicate()
        assert left_in(project) == []
    assert process.returncode == 1
    assert told in errors
    assert errors.count("Error: Process 0 of 2 lost another one: ") == 1
    assert only_run(project).info.status == "FAILED"
    assert LOST in only_run(project).data.tags["mlflow.note.content"]
    assert list((project / "out").glob("*")) == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_launcher_ends_the_run_as_killed_and_nothing_is_left(project: Path, stop: signal.Signals) -> None:
    set_train(project, max_iters=10**9)
    with training(project, torchrun(2)) as process:
        wait_until_it_trains(project, process)
        process.send_signal(stop)
        process.communicate()
        assert left_in(project) == []
    assert process.returncode != 0
    assert only_run(project).info.status == "KILLED"
    assert list((project / "out").glob("*")) == []


def test_processes_end_when_their_launcher_is_gone(project: Path) -> None:
    """A launcher that gets SIGKILL ends nothing: its processes used to train on."""
    set_train(project, max_iters=10**9)
    with training(project, torchrun(2)) as process:
        wait_until_it_trains(project, process)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        _, alive = psutil.wait_procs(workers, timeout=120)
        assert alive == []
        assert "the launcher has ended" in process.communicate()[1]
    assert only_run(project).info.status == "FAILED"
    assert list((project / "out").glob("*")) == []


def test_error_that_every_process_has_is_told_once(project: Path, run: Callable[..., Any]) -> None:
    set_train(project, learning_rate=1e308)
    done = run(project, *TRAIN, code=1, CHARLM_LAUNCHER=torchrun(2))
    assert done.stderr.count("Error: The loss at step 2 is nan; nothing was saved.\n") == 1
    assert only_run(project).info.status == "FAILED"
    assert "The loss at step 2 is nan" in only_run(project).data.tags["mlflow.note.content"]


def test_launcher_that_is_not_there_is_told(project: Path, run: Callable[..., Any]) -> None:
    done = run(project, *TRAIN, code=1, CHARLM_LAUNCHER="torchran --nproc-per-node 2")
    assert done.stderr == (
        "Error: CHARLM_LAUNCHER=torchran --nproc-per-node 2: No such file or directory.\n"
        'Set it to a command such as "torchrun --nproc-per-node 2", or unset it to train in one process.\n'
    )


def test_launcher_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLM_LAUNCHER", "torchrun '")
    with pytest.raises(LauncherError, match=r"^CHARLM_LAUNCHER=torchrun ': No closing quotation\.\n"):
        relaunch("stages.train", [])


def test_devices_that_do_not_suffice_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SharedDeviceError) as err, shared(torch.device("mps"), dict):
        pass
    assert str(err.value) == (
        "train.device=mps: torchrun has started 2 processes here, and 0 such devices can train together.\n"
        "Unset CHARLM_LAUNCHER, or train with train.device=cpu."
    )


def test_launcher_of_another_kind_is_told(project: Path, run: Callable[..., Any]) -> None:
    """Under mpirun, say, each process used to train the whole, and write to the same files."""
    done = run(project, *TRAIN, code=1, CHARLM_LAUNCHER="python")
    assert done.stderr.startswith(
        "Error: CHARLM_LAUNCHER=python: it is not torchrun, whose variables tell the processes apart.\n"
    )


def test_process_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("charlm.training.processes.START_TIMEOUT", timedelta(0))
    store = HashStore()
    store.set("agreed/1", "{}")
    with pytest.raises(
        JoinError, match=r"^Process 0 of 3 cannot join the others: process 2 did not come within 0 s\.\n"
    ):
        Processes(torch.device("cpu"), {})._meet(store)


# Two hosts


def test_hosts_that_are_not_about_to_train_the_same_are_told_apart(project: Path, tmp_path: Path) -> None:
    """They used to train what was nobody's, and say nothing: `dvc exp run -S` changes one host's params.yaml."""
    folders = [project, tmp_path / "the other host"]
    shutil.copytree(*folders)
    set_train(folders[1], learning_rate=0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = "torchrun --nnodes=2 --nproc-per-node=1 --node-rank={} --master-addr=127.0.0.1 --master-port={}"
    with (
        training(folders[0], launch.format(0, port)) as first,
        training(folders[1], launch.format(1, port)) as second,
    ):
        told = [process.communicate()[1] for process in (first, second)]
    expected = (
        "Error: The processes are not about to train the same. Other than in process 0:\n"
        "  params.yaml: process 1\n"
        "Bring the hosts to the same commit, params.yaml, packages and prepared text, then train again.\n"
    )
    assert [expected in errors for errors in told] == [True, True], told
    assert only_run(project).info.status == "FAILED"
    assert [list((folder / "out").glob("*")) for folder in folders] == [[], []]


ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces, joined by nothing but a link named `eth0` on both sides, and each its own loopback."""
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


@contextmanager
def two_hosts(hosts: list[str], folders: list[Path]) -> Iterator[list[subprocess.Popen[str]]]:
    """A training of two processes on each of `hosts`, each in its folder."""
    with (
        training(folders[0], _node(0), *_inside(hosts[0])) as first,
        training(folders[1], _node(1), *_inside(hosts[1])) as second,
    ):
        yield [first, second]


def _inside(host: str) -> list[str]:
    return ["ip", "netns", "exec", host, "env", "GLOO_SOCKET_IFNAME=eth0"]


def _node(rank: int) -> str:
    return f"torchrun --nnodes=2 --nproc-per-node=2 --node-rank={rank} --master-addr={ADDRESSES[0]} --master-port=29500"


@pytest.mark.long
def test_two_hosts_whose_link_is_cut_fail_clearly_and_train_the_same_once_it_is_whole(
    project: Path, hosts: list[str], tmp_path: Path, run: Callable[..., Any]
) -> None:
    code = project / "charlm/distributed.py"
    assert "TIMEOUT = timedelta(seconds=30)" in code.read_text()
    code.write_text(code.read_text().replace("TIMEOUT = timedelta(seconds=30)", "TIMEOUT = timedelta(seconds=5)"))
    settings = (project / "params.yaml").read_bytes()
    set_train(project, max_iters=10**9)
    folders = [project, tmp_path / "the other host"]
    shutil.copytree(*folders)

    with two_hosts(hosts, folders) as processes:
        wait_until_it_trains(project, *processes)
        ip("-n", hosts[1], "link", "set", "eth0", "down")
        told = [process.communicate()[1] for process in processes]
        assert [left_in(folder) for folder in folders] == [[], []]
    for first, errors in zip((0, 2), told, strict=True):
        assert errors.count(f"Error: Process {first} of 4 {LOST}") == 1, errors
    assert [process.returncode for process in processes] == [1, 1]
    assert only_run(project).info.status == "FAILED"
    assert [list((folder / "out").glob("*")) for folder in folders] == [[], []]

    ip("-n", hosts[1], "link", "set", "eth0", "up")
    for folder in folders:
        (folder / "params.yaml").write_bytes(settings)
    with two_hosts(hosts, folders) as processes:
        told = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert results(project, "out") == results(project, "data/train")
    assert not (folders[1] / "out").exists()
    runs = [MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_runs(["1"]) for folder in folders]
    assert [[run.info.status for run in of_folder] for of_folder in runs] == [["FINISHED", "FAILED"], []]
