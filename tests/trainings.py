"""Run stages and `charlm` in a copy of the project, as several tests do, and look at what came of it."""

import contextlib
import json
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from queue import Queue
from typing import Any

import click
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from ruamel.yaml import YAML

import stages.record
import stages.train
from charlm.cli import main
from charlm.tracking.live import track
from tests.code_deps import STAGES

ARGUMENTS: dict[str, list[str]] = {
    name: stage["cmd"].removeprefix(f"python -m stages.{name} ").split() for name, stage in STAGES.items()
}
"""The arguments of each stage, in the order of dvc.yaml."""
_SCRIPT = """
import importlib, json, os, sys
stages, *projects = sys.argv[1:]
for project in projects:
    os.chdir(project)
    for stage, arguments in json.loads(stages).items():
        importlib.import_module(f"stages.{stage}").main(arguments, standalone_mode=False)
"""


def in_one_process(stages: dict[str, list[str]], *projects: Path) -> list[str]:
    """The command that runs these stages with their arguments in each of `projects`, one after the other."""
    return [sys.executable, "-c", _SCRIPT, json.dumps(stages), *map(str, projects)]


def set_train(project: Path, **values: Any) -> None:
    """Set keys of the train section of its params.yaml."""
    params = YAML().load((project / "params.yaml").read_text())
    params["train"] |= values
    YAML().dump(params, project / "params.yaml")


def run_record(project: Path, code: int = 0) -> str:
    """The output of its record stage, run in this process, where MLflow is loaded already."""
    return invoke(project, stages.record.main, ARGUMENTS["record"], code).output


def run_train(project: Path, out: str, code: int = 0, **environment: str) -> str:
    """The output of its train stage, run in this process, where PyTorch is loaded already; the result is in `out`.

    The code that runs is that of these tests: a hook or an edit in the project's copy of it has no effect.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return invoke(project, stages.train.main, ["data/prepare", out], code, **environment).output
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def invoke(
    project: Path, command: click.Command, arguments: Sequence[str], code: int = 0, **environment: str
) -> Result:
    """What the command does in the project. It runs in this process, where its packages are loaded."""
    with contextlib.chdir(project):
        result = CliRunner(env=environment).invoke(command, arguments)
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert result.exit_code == code, result.output
    return result


def charlm(project: Path, *arguments: str, code: int = 0) -> str:
    """The output of the command in the project, on its store."""
    return invoke(project, main, arguments, code, MLFLOW_TRACKING_URI=f"sqlite:///{project / 'mlflow.db'}").output


def only_run(project: Path) -> Any:
    """The one run in its MLflow store."""
    [run] = MlflowClient(f"sqlite:///{project / 'mlflow.db'}").search_runs(["1"])
    return run


HOOK = """
import itertools
import os

_mean_of_all = mean

def mean(*found, steps=itertools.count(1), **kind):
    if next(steps) == 20:
        code = os.environ.get("AT_STEP_20_IN_" + os.environ.get("RANK", "0"), "")
        exec(compile(code, "hook", "exec"))  # executing text, Python exits by SIGINT after any KeyboardInterrupt
    return _mean_of_all(*found, **kind)
"""


def add_hook(project: Path) -> None:
    """Let process N run the code in the environment variable AT_STEP_20_IN_N at that step."""
    with (project / "charlm/training/loop.py").open("a") as module:
        module.write(HOOK)


def refusal(root: Path, uri: str) -> str:
    """The message of a training run that may not log to the store `uri`, and so does not begin."""
    [message] = tracked(root)
    assert message.startswith(f"MLflow cannot use its store {uri}: ")
    assert "CHARLM_TRACKING=off" in message
    return message


def tracked(root: Path, messages: Iterable[dict[str, Any]] = ()) -> list[str]:
    """What the tracker answers to a training run that sends `messages`, and then ends."""
    sent: Queue[dict[str, Any] | None] = Queue()
    for message in ({"params": {"train.seed": 1}, "environment": "{}"}, *messages, {"status": "FINISHED"}):
        sent.put({"time": 0.0} | message)
    sent.put(None)
    answers: list[str] = []
    track(root, sent, answers.append)
    return answers
