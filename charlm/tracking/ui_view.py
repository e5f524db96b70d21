"""How the experiment opens in MLflow's UI: the columns of its list of runs, and the charts.

MLflow stores such a view as a tag of the experiment, `mlflow.sharedViewState.<key>`. An address with the key opens it,
and the UI lists it under Views. The fields are those that the UI writes when a person saves a view; a field that is
left out has its default.
"""

import json
from typing import TYPE_CHECKING, Any

from charlm.summary import EXPLANATIONS
from charlm.tracking.entities import TEXT_TAG

if TYPE_CHECKING:
    from charlm.tracking.store import Store

KEY = "charlm"
COLUMNS = {
    "attributes.`Run Name`": 150,
    "runDateAndNestInfo": 140,
    "metrics.`loss/test`": 95,
    f"tags.`{TEXT_TAG}`": 100,
    "params.`model.name`": 100,
    "params.`train.learning_rate`": 135,
    "params.`train.batch_size`": 120,
    "params.`train.max_iters`": 110,
}
"""Of the list of runs, with widths in pixels: together the width of the list on a screen of 1280."""
REFERENCES = tuple(f"reference/{name}" for name in EXPLANATIONS)
SWEPT = ("train.learning_rate", "train.batch_size", "train.max_iters")
_MADE = 1_767_225_600_000  # The UI requires a time; a fixed one, or the tag would always change.

Chart = dict[str, Any]
SECONDS: Chart = {"xAxisKey": "metric", "selectedXAxisMetricKey": "time/seconds", "useGlobalXaxisKey": False}
"""A line chart by the seconds of the training run in place of its steps: models of different cost compare so."""


def runs_page(store: "Store") -> str:
    """The part of the UI's address, from `#`, that opens the experiment's list of runs with this view.

    Without workflowType the UI opens an overview for generative models, whatever the experiment's kind.
    """
    return f"#/experiments/{store.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"


def save_view(store: "Store") -> None:
    """Save the view in the experiment, unless it is there."""
    name, value = tag()
    if store.client.get_experiment(store.experiment_id).tags.get(name) != value:
        store.client.set_experiment_tag(store.experiment_id, name, value)


def tag() -> tuple[str, str]:
    """Name and value of the experiment's tag for the view."""
    content = {"name": KEY, "createdAt": _MADE, "updatedAt": _MADE, "state": json.dumps(state(), separators=(",", ":"))}
    return f"mlflow.sharedViewState.{KEY}", json.dumps(content)


def state() -> dict[str, Any]:
    """The view in the UI's own terms; the run with the lowest test loss comes first."""
    sections = _sections()
    return {
        "orderByKey": "metrics.`loss/test`",
        "orderByAsc": True,
        "selectedColumns": [name for name in COLUMNS if name.startswith(("metrics.", "params.", "tags."))],
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
        "runsHiddenMode": "FIRST_20_RUNS",
        "useGroupedValuesInCharts": False,  # runs grouped in the list, by sweep for example, are still drawn one by one
        "compareRunCharts": [
            chart | {"metricSectionId": name} for name, charts in sections.items() for chart in charts
        ],
        "compareRunSections": [_section(name) for name in sections],
        "isAccordionReordered": True,  # else the UI sorts the sections by name
    }


def _sections() -> dict[str, list[Chart]]:
    """The charts by section. Every metric has one, for the UI adds its own for each that has none."""
    return {
        "Loss": [_line("Train", "loss/train"), _line("Test", "loss/test")],
        "Loss beside its references": [_line("Train, test and references", "loss/test", "loss/train", *REFERENCES)],
        "Test loss by seconds of training": [_line("Test and references", "loss/test", *REFERENCES) | SECONDS],
        "What was varied, and what came of it": [_parallel(SWEPT, ("loss/train", "loss/test"))],
        "Final figures": [
            _chart("BAR", f"{name}, {split}", metricKey=f"{key}/{split}")
            for name, key in {"Bits per character": "bits_per_char", "Perplexity": "perplexity"}.items()
            for split in ("train", "test")
        ],
        "References": [_chart("BAR", name, metricKey=name) for name in REFERENCES],
        "Training": [
            _line("Loss of single batches", "loss/batch"),
            _line("Tokens a second", "speed/tokens_per_second"),
            _line("Share of the machine's arithmetic", "speed/model_flops_utilization"),
            _line("Seconds", "time/seconds"),
        ],
    }


def _section(name: str) -> dict[str, Any]:
    narrow = name in ("Loss", "Final figures", "References", "Training")
    shape = {"columns": 2 if narrow else 1, "cardHeight": 360, "display": name not in ("References", "Training")}
    return {"uuid": name, "name": name, "isReordered": True, "deleted": False, "isGenerated": False} | shape


def _chart(kind: str, name: str, **more: Any) -> Chart:
    own = {"type": kind, "uuid": name, "displayName": name, "isGenerated": False, "deleted": False}
    return own | {"runsCountToCompare": 20} | more


def _line(name: str, *keys: str) -> Chart:
    axes = {"xAxisKey": "step", "yAxisKey": "metric", "xAxisScaleType": "linear", "scaleType": "linear", "range": {}}
    lines = {"lineSmoothness": 0, "yAxisExpressions": [], "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    return _chart("LINE", name, metricKey=keys[0], selectedMetricKeys=keys, **axes, **lines)


def _parallel(params: tuple[str, ...], metrics: tuple[str, ...]) -> Chart:
    name = "Parameters and results"
    return _chart("PARALLEL", name, selectedParams=params, selectedMetrics=metrics, showAllRuns=True)
