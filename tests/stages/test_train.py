"""The train stage when something goes wrong: what becomes of its run, and what it reports."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from charlm.tracking.live import UNANSWERED, VANISHED
from tests.trainings import add_hook, only_run, run_train, set_train

TRAIN = ("python", "-m", "stages.train", "data/prepare", "out")
RESULTS = ("model.safetensors", "history.csv")
Run = Callable[..., Any]


@pytest.fixture
def hooked(project: Path) -> Path:
    """A project with a hook at step 20."""
    add_hook(project)
    return project


def test_diverged_training_run_fails_with_the_message_and_leaves_no_file(project: Path, run: Run) -> None:
    set_train(project, learning_rate=1e308)
    done = run(project, *TRAIN, code=1)
    assert done.stderr.endswith(
        "Error: The loss at step 2 is nan; nothing was saved.\n"
        "Most likely train.learning_rate=1e+308 is too high for exact: try a tenth of it.\n"
        "params.yaml stays edited, also what -S wrote into it. To undo that: "
        "git checkout params.yaml && dvc repro\n"
    )
    assert only_run(project).info.status == "FAILED"
    assert only_run(project).data.tags["mlflow.note.content"] in done.stderr
    assert list((project / "out").glob("*")) == []


@pytest.mark.parametrize("stop", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_stopped_training_run_ends_as_killed_and_leaves_no_file(hooked: Path, run: Run, stop: str) -> None:
    """The signal goes to all its processes, as by Ctrl-C; the one that keeps the MLflow run goes on to its end."""
    code = f"import signal; os.killpg(0, signal.{stop}); signal.pause()"
    done = run(hooked, "setsid", "--wait", *TRAIN, code=1, AT_STEP_20_IN_0=code)
    assert done.stderr.endswith("Aborted!\n")
    assert only_run(hooked).info.status == "KILLED"
    assert only_run(hooked).data.tags["mlflow.note.content"] == "KeyboardInterrupt"
    assert list((hooked / "out").glob("*")) == []


def test_failed_run_is_closed_though_the_launcher_ends_the_process(hooked: Path, run: Run) -> None:
    """A launcher sends SIGTERM once another process has failed, often with the same error: here as the note is made."""
    code = """
class Late(CharlmError):
    def __str__(self):
        os.kill(os.getpid(), 15)
        return "No."
raise Late("No.")
"""
    done = run(hooked, *TRAIN, code=1, AT_STEP_20_IN_0=code)
    assert done.stderr.endswith("Error: No.\n")
    assert only_run(hooked).info.status == "FAILED"
    assert only_run(hooked).data.tags["mlflow.note.content"] == "No."


def test_store_that_cannot_be_used_is_reported_before_training(project: Path) -> None:
    address = "sqlite:////proc/nowhere/mlflow.db"
    found = run_train(project, "out", code=1, MLFLOW_TRACKING_URI=address)
    assert f"Error: MLflow cannot use its store {address}: " in found
    assert "CHARLM_TRACKING=off" in found
    assert not (project / "out").exists()


def test_switch_that_is_neither_on_nor_off_is_refused(project: Path) -> None:
    assert run_train(project, "out", code=1, CHARLM_TRACKING="no").startswith("Error: CHARLM_TRACKING=no")


@pytest.mark.long
def test_store_or_tracker_lost_in_mid_training_changes_no_result(hooked: Path, run: Run) -> None:
    """A training run outlives both, and is not held up by a tracker that reads nothing: a pipe has room for 64 KiB.

    Untracked it starts no process.
    """
    set_train(hooked, eval_interval=1, eval_iters=1)
    live = hooked / "charlm/tracking/live.py"
    live.write_text(live.read_text().replace("PATIENCE = 25.0", "PATIENCE = 1.0"))
    tracker = "import psutil; [tracker] = psutil.Process().children(); tracker"
    lost = {
        f"{tracker}.suspend()": "the run could not be closed in time",
        f"{tracker}.kill()": UNANSWERED,
        "os.truncate('mlflow.db', 0)": "",
    }
    run(
        hooked,
        *TRAIN[:-1],
        "off",
        CHARLM_TRACKING="off",
        AT_STEP_20_IN_0="import psutil; [] = psutil.Process().children()",
    )
    for code, problem in lost.items():
        done = run(hooked, *TRAIN, AT_STEP_20_IN_0=code)
        assert f"MLflow did not take everything: {problem}" in done.stderr
        assert "The record stage completes the run of the result." in done.stderr
        for name in RESULTS:
            assert (hooked / "out" / name).read_bytes() == (hooked / "off" / name).read_bytes()


def test_code_that_decides_the_result_must_not_change_while_it_runs(hooked: Path, run: Run) -> None:
    """DVC digests a stage's code when the stage has ended, and would take the edited code for what made the result."""
    done = run(hooked, *TRAIN, code=1, AT_STEP_20_IN_0="open('charlm/training/loop.py', 'a').write('# edited')")
    message = "charlm/training/loop.py changed while this stage ran: its result is not what the code there gives now."
    assert f"Error: {message}\n" in done.stderr
    assert only_run(hooked).info.status == "FAILED"
    assert message in only_run(hooked).data.tags["mlflow.note.content"]
    assert "charlm.checkpoint_sha256" not in only_run(hooked).data.tags


def test_code_that_only_tracks_may_change_while_it_runs(hooked: Path, run: Run) -> None:
    """It does not even run here, nor does anything else that a training run has no use for."""
    unused = {"mlflow", "sqlalchemy", "pandas", "matplotlib", "torch._dynamo"}
    code = (
        f"import sys; assert not {unused} & sys.modules.keys(); open('charlm/tracking/live.py', 'a').write('# edited')"
    )
    run(hooked, *TRAIN, AT_STEP_20_IN_0=code)
    assert only_run(hooked).info.status == "FINISHED"


@pytest.mark.long
def test_killed_training_run_of_a_gpt_is_resumed_to_the_same_bytes_in_a_run_with_the_whole_curve(
    hooked: Path, run: Run
) -> None:
    """Dropout and Muon included, and in two processes; the state of other parameters is reported and left alone.

    The run of the killed one used to stay RUNNING until somebody trained or recorded on that machine again.
    """
    params = YAML().load((hooked / "params.yaml").read_text())
    gpt = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_window": 2, "dropout": 0.2}
    params["model"] |= {"name": "gpt", "gpt": gpt}
    YAML().dump(params, hooked / "params.yaml")
    rules = {"optimizer": "muon", "grad_clip": 1.0, "gradient_accumulation_steps": 2}
    set_train(hooked, block_size=16, max_iters=30, eval_interval=5, eval_iters=2, **rules)
    run(hooked, *TRAIN, code=-9, AT_STEP_20_IN_0="os.kill(os.getpid(), 9)")
    assert list((hooked / "out").glob("*")) == []
    killed = only_run(hooked)
    assert (killed.info.status, killed.data.tags["mlflow.note.content"]) == ("KILLED", VANISHED)
    assert killed.data.metrics.keys() >= {"loss/test", "system/cpu_utilization_percentage"}
    [state] = (hooked / ".charlm/unfinished").iterdir()

    set_train(hooked, max_iters=31)
    assert "Not resuming: the 1 unfinished training runs in " in run_train(hooked, "other", CHARLM_TRACKING="off")
    set_train(hooked, max_iters=30)
    resumed = run(hooked, *TRAIN, CHARLM_LAUNCHER="torchrun --nproc-per-node 2")
    assert "Resuming after step 5, where a run with these parameters, text and code was cut off." in resumed.stderr
    assert not state.exists()
    run_train(hooked, "uncut", CHARLM_TRACKING="off")
    for name in RESULTS:
        assert (hooked / "out" / name).read_bytes() == (hooked / "uncut" / name).read_bytes()
    store = MlflowClient(f"sqlite:///{hooked / 'mlflow.db'}")
    last, _ = store.search_runs(["1"], order_by=["attributes.start_time DESC"])
    assert (last.info.status, last.data.tags["charlm.resumed_after_step"]) == ("FINISHED", "5")
    assert 0 < last.data.metrics["speed/model_flops_utilization"] < 1
    assert {point.step for point in store.get_metric_history(last.info.run_id, "loss/test")} == set(range(0, 31, 5))
