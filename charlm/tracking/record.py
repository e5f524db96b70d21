"""The record that is complete: a run of MLflow made to hold all of a result, whatever it held before.

The run is found again by the digest of the checkpoint, and nothing changes in one that is complete. What a complete run
holds is not decided here but given as a `Content`.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from charlm.config import is_pattern, short_source
from charlm.files import sha256
from charlm.provenance.code import EXPERIMENT_TAG, NAMES, Origin
from charlm.tracking.entities import as_metrics, as_params, curve, log_bytes
from charlm.tracking.logged_model import Trained, complete_model
from charlm.tracking.store import ABANDONED_TAG, BATCH, CHECKPOINT_TAG, NOTE_TAG, RESULTS_TAG, Store, telling
from charlm.tracking.ui_view import give_view
from charlm.training.history import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run


@dataclass(frozen=True)
class Part:
    """A part of the text that a run saw: what for (train or test), its SHA-256 digest and the whole text's."""

    purpose: str
    sha256: str
    text_sha256: str


@dataclass(frozen=True)
class Content:
    """All that a complete run holds."""

    checkpoint_sha256: str
    results_sha256: str
    """Of all files of the result: a complete run of another result keeps its own record."""
    params: Mapping[str, Any]
    """By dotted key, of every section."""
    points: Sequence[Point]
    metrics: Mapping[str, float]
    """Final figures by metric name; the losses are the last of `points`."""
    levels: Mapping[str, float]
    """What is the same at every step, by metric name: kept at the first and the last, the UI draws a line of it."""
    source: str | Sequence[str]
    """Where the text is from, or each of several."""
    parts: Sequence[Part]
    files: Mapping[str, Path]
    """By the name of the artifact."""
    trained: Trained
    """What its model is made of."""
    texts: dict[str, str]
    """By the name of the artifact; what a run holds of this name stays, whatever stands in it."""
    figures: Mapping[str, "Callable[[], Figure]"]
    """By the name of the artifact, each drawn when it is missing."""
    note: str
    """The run's description, in Markdown; the command that makes it again is added."""


def record(store: Store, content: Content, origin: Origin) -> list[str]:
    """Make every run that left the checkpoint with these parameters hold `content`; make one, of `origin`, if none did.

    Returns their ids, newest first. A second time changes nothing. Raises TrackingError when the store cannot be
    used; a later call then goes on where this one stopped. Runs whose process was killed are closed as KILLED.
    """
    with telling(store.uri):
        give_view(store)
        with store.alone:
            ids = [run.info.run_id for run in _runs_of(store, content, origin)]
            store.close_abandoned(but=ids)
            if not ids:
                tags = origin.tags() | {CHECKPOINT_TAG: content.checkpoint_sha256}
                ids = [store.create_run("restored", tags, origin.experiment)]
        for run_id in ids:
            _complete(store.client, store.client.get_run(run_id), content, origin)
    return ids


def is_recorded(store: Store, content: Content, origin: Origin) -> bool:
    """Whether a run holds all of `content` already."""
    with telling(store.uri):
        runs = _runs_of(store, content, origin)
    return any(NOTE_TAG in run.data.tags and RESULTS_TAG in run.data.tags for run in runs)


def _runs_of(store: Store, content: Content, origin: Origin) -> "list[Run]":
    """The runs with the checkpoint, no parameter that differs and no other result; else one that nearly had it.

    The same checkpoint under other parameters, of the sample say, is another experiment's and keeps its own record; so
    does one whose samples or figures other code has made. Of those that train alone has logged to, which may be of any
    such experiment, this one's own go before all others.
    """
    wanted = {param.key: param.value for param in as_params(content.params)}
    held = store.runs(f"tags.`{CHECKPOINT_TAG}` = '{content.checkpoint_sha256}'")
    held = [run for run in held if run.data.params.items() <= wanted.items()]
    whole = [run for run in held if run.data.tags.get(RESULTS_TAG) == content.results_sha256]
    begun = [run for run in held if RESULTS_TAG not in run.data.tags]
    own = [run for run in begun if run.data.tags.get(EXPERIMENT_TAG) == origin.experiment]
    return whole + (own or begun) or [run for run in _left(store) if _was_cut_off(store, run, content, wanted)][:1]


def _left(store: Store) -> "list[Run]":
    """The runs without a checkpoint whose process is gone, closed or not."""
    closed = store.runs(f"tags.`{ABANDONED_TAG}` = 'true' and attributes.status = 'KILLED'")
    return [run for run in store.abandoned() + closed if CHECKPOINT_TAG not in run.data.tags]


def _was_cut_off(store: Store, run: "Run", content: Content, wanted: Mapping[str, str]) -> bool:
    """Whether the run is of this training, whose end the store did not take: same parameters, same beginning."""
    points = {(key, point.step): value for point in content.points for key, value in curve(point).items()}
    histories = [_history(store.client, run, key) for key in curve(content.points[-1])]
    held = {(metric.key, metric.step): metric.value for history in histories for metric in history}
    return bool(held) and run.data.params.items() <= wanted.items() and held.items() <= points.items()


def _complete(client: "MlflowClient", run: "Run", content: Content, origin: Origin) -> None:
    """Add to the run whatever of `content` it does not hold yet, and set it FINISHED.

    The tag that keeps other results out comes first, the description last: a run that has both is complete.
    """
    run_id = run.info.run_id
    for tag, value in {CHECKPOINT_TAG: content.checkpoint_sha256, RESULTS_TAG: content.results_sha256}.items():
        if tag not in run.data.tags:
            client.set_tag(run_id, tag, value)
    if missing := [param for param in as_params(content.params) if param.key not in run.data.params]:
        client.log_batch(run_id, params=missing)
    _complete_metrics(client, run, content)
    if not (run.inputs and run.inputs.dataset_inputs):
        client.log_inputs(run_id, datasets=_datasets(content))
    _complete_artifacts(client, run_id, content, origin)
    measured = ["loss/train", "loss/test", *content.metrics, *content.levels]
    complete_model(client, run_id, content.trained, content.params, measured)
    if NOTE_TAG not in run.data.tags:
        again = f"`charlm reproduce {run_id[:12]}` makes it again and compares every byte."
        client.set_tag(run_id, NOTE_TAG, f"{content.note}\n{again}\n")
    if run.info.status != "FINISHED":
        client.set_terminated(run_id)


def _complete_metrics(client: "MlflowClient", run: "Run", content: Content) -> None:
    """Add the points of the loss curve and the final figures that the run does not hold, or holds otherwise."""
    first, last = content.points[0], content.points[-1]
    curves = {
        key: {point.step: curve(point)[key] for point in content.points if key in curve(point)} for key in curve(last)
    }
    curves |= {key: {first.step: value, last.step: value} for key, value in content.levels.items()}
    metrics = [metric for key, values in curves.items() for metric in _missing(client, run, key, values)]
    for key, value in content.metrics.items():
        if run.data.metrics.get(key) != value:
            times = [held.timestamp for held in _history(client, run, key)]
            metrics += as_metrics({key: value}, last.step, max(times, default=run.info.start_time) + 1)
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + BATCH])


def _missing(client: "MlflowClient", run: "Run", key: str, values: Mapping[int, float]) -> "Iterator[Metric]":
    """Those of the metric's `values` by step that the run does not hold, each at the time of the one before it.

    MLflow orders by time, then step, and keeps one of metrics that are alike in all: so a gap is filled in place, and
    what two records add at once is there once.
    """
    held = {metric.step: metric.timestamp for metric in _history(client, run, key)}
    when = run.info.start_time
    for step, value in values.items():
        when = held.get(step, when)
        if step not in held:
            yield from as_metrics({key: value}, step, when)


def _history(client: "MlflowClient", run: "Run", key: str) -> "list[Metric]":
    return client.get_metric_history(run.info.run_id, key) if key in run.data.metrics else []


def _complete_artifacts(client: "MlflowClient", run_id: str, content: Content, origin: Origin) -> None:
    """Add the files and pictures that the run does not hold, and the files that it holds otherwise."""
    held = dict(_artifacts(client, run_id))
    for name, path in content.files.items():
        if held.get(name) != path.stat().st_size or not _holds(client, run_id, name, path):
            folder = PurePosixPath(name).parent
            client.log_artifact(run_id, str(path), str(folder) if folder.name else None)
    small = {name: text.encode() for name, text in content.texts.items()}
    if not held.keys() >= NAMES:
        small |= origin.files()
    for name in small.keys() - held.keys():
        log_bytes(client, run_id, name, small[name])
    for name in content.figures.keys() - held.keys():
        client.log_figure(run_id, content.figures[name](), name)


def _holds(client: "MlflowClient", run_id: str, name: str, path: Path) -> bool:
    """Whether the artifact `name`, as long as the file `path`, is that file; a checkpoint is known by its tag."""
    if path.suffix == ".safetensors":
        return True
    with tempfile.TemporaryDirectory() as folder:
        return sha256(Path(client.download_artifacts(run_id, name, folder))) == sha256(path)


def _artifacts(client: "MlflowClient", run_id: str, folder: str | None = None) -> Iterator[tuple[str, int | None]]:
    """Name and size of every artifact of the run below `folder`."""
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from _artifacts(client, run_id, entry.path)
        else:
            yield entry.path, entry.file_size


def _datasets(content: Content) -> list[Any]:
    """The parts of the text with where it is from and their digests (MLflow keeps 36 characters of one)."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, kind, source = _origin(content.source)
    inputs = []
    for part in content.parts:
        dataset = Dataset(
            name=f"{name} {part.purpose}",
            digest=part.sha256[:36],
            source_type=kind,
            source=json.dumps(source),
            profile=json.dumps({"tokens_sha256": part.sha256, "text_sha256": part.text_sha256}),
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", part.purpose)]))
    return inputs


def _origin(source: str | Sequence[str]) -> tuple[str, str, dict[str, Any]]:
    """Name, MLflow's type and content of a dataset's source; MLflow itself has none for several texts."""
    if not isinstance(source, str):
        return short_source(source), "texts", {"texts": list(source)}
    address = urlsplit(source)
    if address.scheme in ("http", "https"):
        return PurePosixPath(address.path).stem, "http", {"url": source}
    return source if is_pattern(source) else PurePosixPath(source).stem, "local", {"uri": source}
