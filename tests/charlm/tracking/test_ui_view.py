"""The view that the experiment opens with: that it is consistent. What it looks like, tests/test_ui.py checks."""

import json

from charlm.tracking import ui_view as view


def test_tag_is_an_envelope_of_the_state_that_mlflow_takes_and_the_same_every_time() -> None:
    name, value = view.tag()
    assert name == "mlflow.sharedViewState.charlm"
    assert len(value) < 20_000  # MLflow's limit
    content = json.loads(value)
    assert json.loads(content.pop("state")) == json.loads(json.dumps(view.state()))
    assert content == {"name": "charlm", "createdAt": 1767225600000, "updatedAt": 1767225600000}
    assert view.tag() == (name, value)


def test_every_chart_has_a_name_of_its_own_in_a_section_that_is_there() -> None:
    state = view.state()
    sections = [section["uuid"] for section in state["compareRunSections"]]
    charts = [chart["uuid"] for chart in state["compareRunCharts"]]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == set(sections)
    assert len(set(charts)) == len(charts)


def test_every_metric_of_a_run_has_a_chart_so_that_the_ui_adds_none() -> None:
    charts = {chart.get("metricKey") for chart in view.state()["compareRunCharts"]}
    splits = {f"{name}/{split}" for name in ("loss", "bits_per_char", "perplexity") for split in ("train", "test")}
    training = {"loss/batch", "speed/tokens_per_second", "speed/model_flops_utilization", "time/seconds"}
    assert charts - {None} == splits | set(view.REFERENCES) | training
