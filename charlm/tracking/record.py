"""Complete the record of a result: add to its run in MLflow whatever of a `Content` the run lacks.

The run is found by the digest of the checkpoint. A complete run does not change.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from charlm.config import PARAMS_FILE
from charlm.files import sha256
from charlm.provenance.code import ENVIRONMENT, EXPERIMENT_TAG, PATCH, Origin
from charlm.tracking.content import Content
from charlm.tracking.entities import TEXT_TAG, as_metrics, as_params, digest_of, log_bytes, log_file, losses, text_name
from charlm.tracking.logged_model import complete_model
from charlm.tracking.store import ABANDONED_TAG, BATCH, CHECKPOINT_TAG, NOTE_TAG, RESULTS_TAG, Store, store_errors
from charlm.tracking.ui_view import save_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_LONGEST_SOURCE = 60_000  # bytes of the source of a dataset; MLflow takes 65,535

Histories = dict[str, "list[Metric]"]


def record(store: Store, content: Content, origin: Origin) -> list[str]:
    """Complete every run that left the checkpoint with these parameters; create one, of `origin`, if there is none.

    Returns their ids, newest first. A second call changes nothing. Raises CharlmError if the store cannot be used; a
    later call then continues. Runs whose process was killed are closed as KILLED.
    """
    with store_errors(store.uri):
        save_view(store)
        with store.alone:
            ids = [run.info.run_id for run in _runs_of(store, content, origin)]
            store.close_abandoned(but=ids)
            if not ids:
                tags = origin.tags() | {CHECKPOINT_TAG: content.checkpoint_sha256}
                name = origin.experiment or f"{content.params['model.name']} on {text_name(content.sources)}"
                ids = [store.create_run("restored", tags, name)]
        for run_id in ids:
            _complete(store.client, store.client.get_run(run_id), content, origin)
    return ids


def is_recorded(store: Store, content: Content, origin: Origin) -> bool:
    """Whether a run has all of `content` already."""
    with store_errors(store.uri):
        runs = _runs_of(store, content, origin)
    return any(_is_complete(run, origin) for run in runs)


def _is_complete(run: "Run", origin: Origin) -> bool:
    """Whether a record of the run has come to its end."""
    needed = {NOTE_TAG, RESULTS_TAG, *([EXPERIMENT_TAG] if origin.experiment else [])}
    return needed <= run.data.tags.keys() and run.info.status == "FINISHED"


def deleted_run(store: Store, content: Content, origin: Origin) -> str | None:
    """The id of a run of this result that was deleted in MLflow, if no other run is of it."""
    from mlflow.entities import ViewType

    condition = f"tags.`{RESULTS_TAG}` = '{content.results_sha256}'"
    wanted = {param.key: param.value for param in as_params(content.params)}
    with store_errors(store.uri):
        deleted = store.client.search_runs([store.experiment_id], condition, ViewType.DELETED_ONLY)
        found = [run.info.run_id for run in deleted if run.data.params.items() <= wanted.items()]
        return found[0] if found and not _runs_of(store, content, origin) else None


def _runs_of(store: Store, content: Content, origin: Origin) -> "list[Run]":
    """The runs with the checkpoint, the same parameters and no other result; else one that was cut off before its end.

    A run with the checkpoint but other parameters, of the sample for example, belongs to another experiment. So does
    one with other results, from other code. Runs that only train has logged to may belong to any of these; those of
    this experiment come first.
    """
    wanted = {param.key: param.value for param in as_params(content.params)}
    found = store.runs(f"tags.`{CHECKPOINT_TAG}` = '{content.checkpoint_sha256}'")
    found = [run for run in found if run.data.params.items() <= wanted.items()]
    same = [run for run in found if run.data.tags.get(RESULTS_TAG) == content.results_sha256]
    begun = [run for run in found if RESULTS_TAG not in run.data.tags]
    own = [run for run in begun if run.data.tags.get(EXPERIMENT_TAG) == origin.experiment]
    if runs := same + (own or begun):
        return runs
    closed = store.runs(f"tags.`{ABANDONED_TAG}` = 'true' and attributes.status = 'KILLED'")
    ended = [run for run in store.abandoned() + closed if CHECKPOINT_TAG not in run.data.tags]
    return [run for run in ended if _was_cut_off(store.client, run, content, wanted)][:1]


def _was_cut_off(client: "MlflowClient", run: "Run", content: Content, wanted: Mapping[str, str]) -> bool:
    """Whether the run is of this training, but the store missed its end: same parameters, same first points."""
    points = {(key, point.step): value for point in content.points for key, value in losses(point).items()}
    histories = _histories(client, run, losses(content.points[-1]))
    logged = {(metric.key, metric.step): metric.value for history in histories.values() for metric in history}
    return bool(logged) and run.data.params.items() <= wanted.items() and logged.items() <= points.items()


def _histories(client: "MlflowClient", run: "Run", keys: Iterable[str]) -> Histories:
    """All points of these metrics of the run; none of one that it lacks."""
    return {key: client.get_metric_history(run.info.run_id, key) if key in run.data.metrics else [] for key in keys}


def _complete(client: "MlflowClient", run: "Run", content: Content, origin: Origin) -> None:
    """Add to the run whatever of `content` it lacks, and set it FINISHED.

    The tag that keeps other results out comes first, the description last: a run that has both is complete.
    """
    run_id = run.info.run_id
    tags = {CHECKPOINT_TAG: content.checkpoint_sha256, RESULTS_TAG: content.results_sha256}
    tags |= {TEXT_TAG: text_name(content.sources)}
    tags |= {EXPERIMENT_TAG: origin.experiment} if origin.experiment else {}
    for tag, value in tags.items():
        if tag not in run.data.tags:
            client.set_tag(run_id, tag, value)
    if missing := [param for param in as_params(content.params) if param.key not in run.data.params]:
        client.log_batch(run_id, params=missing)
    histories = _complete_metrics(client, run, content)
    if not (run.inputs and run.inputs.dataset_inputs):
        client.log_inputs(run_id, datasets=_datasets(content))
    _complete_artifacts(client, run, content, origin)
    measured = ["loss/train", "loss/test", *content.metrics, *content.references]
    last = [max(histories[key], key=lambda metric: (metric.step, metric.timestamp)) for key in measured]
    complete_model(client, run_id, content, last)
    if NOTE_TAG not in run.data.tags:
        command = f"`charlm reproduce {run_id[:12]}` reproduces it and compares every byte."
        client.set_tag(run_id, NOTE_TAG, f"{command}\n\n{content.description}")
    if run.info.status != "FINISHED":
        client.set_terminated(run_id)


def _complete_metrics(client: "MlflowClient", run: "Run", content: Content) -> Histories:
    """Log the points and final figures that the run lacks or has with another value; return all it then has."""
    first, last = content.points[0].step, content.points[-1].step
    curves = {key: {first: value, last: value} for key, value in content.references.items()}
    for point in content.points:
        for key, value in losses(point).items():
            curves.setdefault(key, {})[point.step] = value
    histories = _histories(client, run, [*curves, *content.metrics])
    added = [metric for key, values in curves.items() for metric in _missing(run, key, values, histories[key])]
    for key, value in content.metrics.items():
        if run.data.metrics.get(key) != value:
            times = [metric.timestamp for metric in histories[key]]
            added += as_metrics({key: value}, last, max(times, default=run.info.start_time) + 1)
    for start in range(0, len(added), BATCH):
        client.log_batch(run.info.run_id, metrics=added[start : start + BATCH])
    for metric in added:
        histories[metric.key].append(metric)
    return histories


def _missing(run: "Run", key: str, values: Mapping[int, float], history: "list[Metric]") -> "Iterator[Metric]":
    """Those of the metric's `values` by step that its `history` lacks, each at the time of the one before it.

    MLflow orders by time, then step, and keeps one of identical points. So a gap is filled in place, and what two
    records add at once is there once.
    """
    times = {metric.step: metric.timestamp for metric in history}
    when = run.info.start_time
    for step, value in values.items():
        when = times.get(step, when)
        if step not in times:
            yield from as_metrics({key: value}, step, when)


def _complete_artifacts(client: "MlflowClient", run: "Run", content: Content, origin: Origin) -> None:
    """Add the files, texts and figures that the run lacks; replace the files that differ.

    Those of a complete run are not downloaded to compare them: it lacks what was lost since, or is of another size.
    """
    run_id = run.info.run_id
    sizes = dict(_artifacts(client, run_id))
    for name, path in content.files.items():
        complete = _is_complete(run, origin)
        if sizes.get(name) != path.stat().st_size or not (complete or _is_same(client, run_id, name, path)):
            log_file(client, run_id, name, path)
    small = {name: text.encode() for name, text in content.texts.items()}
    if not sizes.keys() >= {ENVIRONMENT, PATCH}:
        small |= origin.files()
    for name in small.keys() - sizes.keys():
        log_bytes(client, run_id, name, small[name])
    for name in content.figures.keys() - sizes.keys():
        client.log_figure(run_id, content.figures[name](), name)


def _is_same(client: "MlflowClient", run_id: str, name: str, path: Path) -> bool:
    """Whether the artifact `name`, of the same size, is the file `path`; the run's tag has checked a checkpoint."""
    if path.suffix == ".safetensors":
        return True
    with tempfile.TemporaryDirectory() as folder:
        return sha256(Path(client.download_artifacts(run_id, name, folder))) == sha256(path)


def _artifacts(client: "MlflowClient", run_id: str, folder: str | None = None) -> Iterator[tuple[str, int | None]]:
    """Name and size of every artifact of the run in `folder` and the folders in it."""
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from _artifacts(client, run_id, entry.path)
        else:
            yield entry.path, entry.file_size


def _datasets(content: Content) -> list[Any]:
    """The splits as MLflow's dataset inputs; MLflow keeps 36 characters of a digest, the profile has all."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    kind, source = _source(content.sources)
    return [
        DatasetInput(
            Dataset(
                name=f"{text_name(content.sources)} {context}",
                digest=digest[:36],
                source_type=kind,
                source=json.dumps(source),
                profile=json.dumps({"tokens_sha256": digest, "text_sha256": content.text_sha256}),
            ),
            [InputTag("mlflow.data.context", context)],
        )
        for context, digest in content.tokens_sha256.items()
    ]


def _source(sources: list[str]) -> tuple[str, dict[str, Any]]:
    """MLflow's source type and source of a dataset; several texts are what MLflow calls a source in code."""
    if len(sources) > 1:
        listed = json.dumps(sources)
        if len(listed) > _LONGEST_SOURCE:
            return "code", {"tags": {"texts": len(sources), "sha256": digest_of(listed), "listed": PARAMS_FILE}}
        return "code", {"tags": {"texts": sources}}
    if urlsplit(sources[0]).scheme in ("http", "https"):
        return "http", {"url": sources[0]}
    return "local", {"uri": sources[0]}
