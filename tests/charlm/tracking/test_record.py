"""The record in a real store, where the pipeline does not lead."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.data import get_source
from mlflow.entities import Metric, Param

from charlm.errors import CharlmError
from charlm.provenance.code import Origin
from charlm.tracking.process import process
from charlm.tracking.record import is_recorded, record
from charlm.tracking.store import Store

HERE = Origin(Path(), None)


def ended() -> str:
    """A process of this machine that has ended, as runs are tagged with."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        return f"{process().split()[0]} {child.pid} 1.00"


def test_points_that_did_not_arrive_are_added_once(
    root: Path, content: Callable[..., Any], course: Callable[..., Any]
) -> None:
    store, result = Store(root), content()
    run_id = store.create_run("trained", {"charlm.checkpoint_sha256": result.checkpoint_sha256}, None)
    store.client.log_batch(run_id, metrics=[Metric("loss/test", 3.1, 1, 0), Metric("loss/test", 1.6, 2, 15)])
    for _ in range(2):
        assert record(store, result, HERE) == [run_id]
        assert is_recorded(store, result, HERE)
        # in order, too: the point that was missing does not come last
        assert list(course(store, run_id, "loss/test").items()) == [(0, 3.1), (10, 2.1), (15, 1.6)]
        assert course(store, run_id, "loss/train") == {0: 3.0, 10: 2.0, 15: 1.5}
        assert course(store, run_id, "loss/batch") == {10: 2.05, 15: 1.55}
        [model] = store.client.search_logged_models([store.experiment_id])
        assert {metric.key: metric.value for metric in model.metrics} == {
            "loss/train": 1.5,
            "loss/test": 1.6,
            "perplexity/test": 4.9,
            "reference/uniform": 4.4,
        }
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_figure_that_differs_is_corrected(root: Path, content: Callable[..., Any]) -> None:
    store = Store(root)
    [run_id] = record(store, content(), HERE)
    store.client.log_metric(run_id, "perplexity/test", 5.9, step=15)
    record(store, content(), HERE)
    assert store.client.get_run(run_id).data.metrics["perplexity/test"] == 4.9


def test_every_run_of_the_checkpoint_is_completed_and_one_of_other_params_left_alone(
    root: Path, content: Callable[..., Any]
) -> None:
    store, result = Store(root), content()
    tags = {"charlm.checkpoint_sha256": result.checkpoint_sha256}
    first, second, other = (store.create_run("trained", tags, None) for _ in range(3))
    store.client.log_param(other, "train.seed", "2")
    assert sorted(record(store, result, HERE)) == sorted([first, second])
    assert store.client.get_run(other).data.metrics == {}


def test_other_result_of_the_same_checkpoint_keeps_a_record_of_its_own(root: Path, content: Callable[..., Any]) -> None:
    """Edited sampling code overwrote the samples of a run whose commit, patch and lock stayed the old ones."""
    store = Store(root)
    [first] = record(store, content(), HERE)
    [second] = record(store, content(results_sha256="c" * 64), HERE)
    assert first != second
    assert record(store, content(), HERE) == [first]


@pytest.mark.parametrize("closed_before", [False, True], ids=["left running", "closed by another training"])
def test_training_whose_end_the_store_did_not_take_is_completed_and_a_killed_one_closed(
    root: Path, content: Callable[..., Any], course: Callable[..., Any], *, closed_before: bool
) -> None:
    """Such a run stayed RUNNING for ever, and the result got a second one."""
    store = Store(root)
    cut_off, other, empty, alive = (
        store.create_run("trained", {"charlm.process": owner}, None) for owner in [ended(), ended(), ended(), process()]
    )
    store.client.log_param(empty, "train.seed", "1")
    for run_id, first in ((cut_off, 3.1), (other, 9.9), (alive, 3.1)):
        store.client.log_batch(run_id, [Metric("loss/test", first, 1, 0)], [Param("train.seed", "1")])
    if closed_before:
        store.close_abandoned()
    assert record(store, content(), HERE) == [cut_off]
    status = {run.info.run_id: run.info.status for run in store.runs()}
    assert status == {cut_off: "FINISHED", other: "KILLED", empty: "KILLED", alive: "RUNNING"}
    assert course(store, cut_off, "loss/test") == {0: 3.1, 10: 2.1, 15: 1.6}
    assert record(store, content(), HERE) == [cut_off]


def test_experiments_with_the_same_checkpoint_keep_to_their_own_runs(root: Path, content: Callable[..., Any]) -> None:
    """Of two that differ in the sample alone, the first to record took both runs of train."""
    store, trained = Store(root), {}
    for name in ("sweep-1", "sweep-2"):
        tags = {"charlm.checkpoint_sha256": content().checkpoint_sha256, "charlm.dvc_experiment": name}
        trained[name] = store.create_run("trained", tags, name)
    for name, temperature in {"sweep-2": 0.5, "sweep-1": 2.0}.items():
        params = dict(content().params) | {"sample.temperature": temperature}
        result = content(params=params, results_sha256=name)
        assert record(store, result, Origin(Path(), name)) == [trained[name]]
    assert len(store.runs()) == 2


def test_values_longer_than_mlflow_takes_keep_their_size_and_digest(root: Path, content: Callable[..., Any]) -> None:
    """The record of 2,000 paths failed each time: a dataset's source ends at 65,535 characters."""
    sources = [f"books/a folder with a long name, é/{number:05}.txt" for number in range(2000)]
    params = dict(content().params) | {"data.source": sources, "sample.prompt": "abc" * 3000}
    result = content(params=params, sources=sources)
    store = Store(root)
    [run_id] = record(store, result, HERE)
    assert record(store, result, HERE) == [run_id]
    run = store.client.get_run(run_id)
    digest = hashlib.sha256(json.dumps(sources).encode()).hexdigest()
    assert run.data.params["data.source"].endswith(f"… (2000 texts, SHA-256 {digest}, complete in params.yaml)")
    assert "… (9000 characters, SHA-256 " in run.data.params["sample.prompt"]
    assert {len(run.data.params[key]) for key in ("data.source", "sample.prompt")} == {6000}
    source = get_source(run.inputs.dataset_inputs[0])
    assert source.to_dict() == {"tags": {"texts": 2000, "sha256": digest, "listed": "params.yaml"}}


@pytest.mark.parametrize(
    ("sources", "read"),
    [
        (["tests/tale.txt"], {"uri": "tests/tale.txt"}),
        (["books/*.txt"], {"uri": "books/*.txt"}),
        (["https://example.org/a/book.txt"], {"url": "https://example.org/a/book.txt"}),
        (["a.txt", "b.txt"], {"tags": {"texts": ["a.txt", "b.txt"]}}),
        ([f"https://example.org/{'a' * 3000}"], {"url": f"https://example.org/{'a' * 3000}"}),
    ],
    ids=["path", "pattern", "address", "list", "long"],
)
def test_source_of_a_dataset_is_one_that_mlflow_reads(
    root: Path, content: Callable[..., Any], sources: list[str], read: dict[str, Any]
) -> None:
    """MLflow had no source type `texts`."""
    store = Store(root)
    [run_id] = record(store, content(sources=sources), HERE)
    train, test = store.client.get_run(run_id).inputs.dataset_inputs
    assert get_source(train).to_dict().items() >= read.items()
    assert (train.dataset.name[-6:], test.dataset.name[-5:]) == (" train", " test")


def test_search_by_dataset_finds_the_model(root: Path, content: Callable[..., Any]) -> None:
    """Its metrics named no dataset."""
    store = Store(root)
    record(store, content(), HERE)
    for split, digest in content().tokens_sha256.items():
        dataset = {"dataset_name": f"a {split}", "dataset_digest": digest[:36]}
        for condition, expected in {"<": 1, ">": 0}.items():
            found = store.client.search_logged_models(
                [store.experiment_id], f"metrics.`loss/{split}` {condition} 2", [dataset]
            )
            assert len(found) == expected


def test_run_has_the_tags_that_a_person_gives(
    root: Path, content: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(root)
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", '{"ci": "https://example.org/jobs/7", "n": 1, "charlm.origin": "mine"}')
    [run_id] = record(store, content(), HERE)
    tags = store.client.get_run(run_id).data.tags
    assert (tags["ci"], tags["n"], tags["charlm.origin"]) == ("https://example.org/jobs/7", "1", "restored")
    for wrong in ("ci=7", "[1]", '"text"'):
        monkeypatch.setenv("MLFLOW_RUN_CONTEXT", wrong)
        with pytest.raises(CharlmError, match="Expected a JSON object of tags"):
            store.create_run("trained", {}, None)


def test_model_that_another_process_is_logging_is_left_to_it(root: Path, content: Callable[..., Any]) -> None:
    store = Store(root)
    run_id = store.create_run("trained", {"charlm.checkpoint_sha256": content().checkpoint_sha256}, None)
    begun = store.client.create_logged_model(
        store.experiment_id, "charlm", run_id, {"charlm.process": "elsewhere 1 1.00"}
    )
    record(store, content(), HERE)
    [model] = store.client.search_logged_models([store.experiment_id])
    assert model.model_id == begun.model_id


def test_model_whose_logging_was_cut_short_is_logged_again(root: Path, content: Callable[..., Any]) -> None:
    store = Store(root)
    [run_id] = record(store, content(), HERE)
    [ready] = store.client.search_logged_models([store.experiment_id])
    store.client.delete_logged_model(ready.model_id)
    half = store.client.create_logged_model(store.experiment_id, "charlm", run_id, {"charlm.process": ended()})
    assert record(store, content(), HERE) == [run_id]
    [again] = store.client.search_logged_models([store.experiment_id])
    assert again.status == "READY"
    assert again.model_id != half.model_id
