"""MLflow's UI as a person sees it: `charlm ui` on a store of real runs, in headless Chromium.

With --screenshots the tests leave pictures of the pages that they have checked; `make screenshots` does it.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from PIL import Image
from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

from charlm.config import MODELS
from tests.trainings import charlm

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.xdist_group("one server and one browser")

SWEPT = ["train.learning_rate", "train.batch_size", "train.max_iters"]

Picture = Callable[..., None]
PLAIN = "[data-assistant-ui] { visibility: hidden }"
"""Without the assistant's button, which floats above the page."""
WIDTH, HEIGHT = 1280, 800
PATIENCE = 30_000
"""Milliseconds for what a page shows at once, on a machine that has other work."""


@pytest.fixture(scope="session")
def runs(sweep: Path) -> list[MlflowRun]:
    """The runs in the store, the one with the lowest test loss first."""
    client = MlflowClient(f"sqlite:///{sweep / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("charlm")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["metrics.`loss/test` ASC"]))


@pytest.fixture(scope="session")
def address(sweep: Path) -> Iterator[str]:
    """The address that `charlm ui` prints, while it serves; it is started in a folder of the project.

    At the end it hears Ctrl-C, as does all that it has started, and leaves nothing.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (sweep.parent / "ui.log").open("w+") as log:
        with subprocess.Popen(
            ["charlm", "ui", "--no-browser", "--port", str(port)],
            cwd=sweep / "tests",
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        ) as server:
            assert server.stdout is not None
            try:
                found = next((line.split()[-1] for line in server.stdout if line.startswith("The runs: ")), None)
                assert found is not None, Path(log.name).read_text()
                yield found
            finally:
                os.killpg(server.pid, signal.SIGINT)
        assert server.returncode == 0
        log.seek(0)
        assert "Traceback" not in log.read()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


@pytest.fixture(scope="session")
def browser(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """A browser that keeps the UI's compiled code in its profile, and has seen what MLflow advertises once."""
    if CHROMIUM is None and "CI" not in os.environ:
        pytest.skip("needs chromium (apt install chromium)")
    seen = {
        "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
        "_mlflow_user_setting_dismiss_next_model_registry_ui": "false",
    }
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("browser"), executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        context.add_init_script(f"Object.assign(localStorage, {json.dumps(seen)})")
        context.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield context
        context.close()


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    page = browser.new_page()
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    yield page
    page.close()


@pytest.fixture
def picture(page: Page, request: pytest.FixtureRequest) -> Picture:
    """A function that keeps a picture of the page below a name, when --screenshots does it.

    `hidden` depends on the machine that the tests run on, such as the folder of the store.
    """
    folder: Path | None = request.config.getoption("screenshots")

    def picture(name: str, *hidden: Locator, height: int = HEIGHT) -> None:
        if not folder:
            return
        if page.get_by_role("link", name="Docs").is_visible():
            page.get_by_role("button", name="Toggle sidebar").click()
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.mouse.move(0, 0)
        before, now = None, b""
        while before != now:  # until everything is drawn
            before, now = (
                now,
                page.screenshot(animations="disabled", style=PLAIN, mask=list(hidden), mask_color="white"),
            )
        # 256 colours are plenty for a page, at less than half the size.
        Image.open(BytesIO(now)).convert("RGB").quantize(dither=Image.Dither.NONE).save(
            folder / f"{name}.png", optimize=True
        )

    return picture


@pytest.fixture
def run_page(page: Page, address: str, runs: list[MlflowRun]) -> Page:
    """The page of the best run."""
    page.goto(f"{address.partition('?')[0]}/{runs[0].info.run_id}?workflowType=machine_learning")
    return page


def values(page: Page, name: str) -> list[float]:
    """The values in the column `name` of the list of runs, from the top."""
    cells = page.get_by_role("gridcell").and_(page.locator(f"[col-id='{name}']"))
    return [float(text) for text in cells.all_inner_texts()]


def side_by_side(left: Locator, right: Locator) -> bool:
    one, other = left.bounding_box(), right.bounding_box()
    assert one is not None
    assert other is not None
    return one["y"] == other["y"] and one["x"] + one["width"] <= other["x"]


def scroll_to(page: Page, section: str) -> None:
    """Bring a section of the charts to the top, below the field that stays there."""
    page.get_by_text(section).evaluate("element => element.scrollIntoView()")
    page.mouse.move(WIDTH / 2, HEIGHT / 2)
    page.mouse.wheel(0, -70)


def test_address_is_that_of_the_experiment_on_a_server_that_answers(address: str, runs: list[MlflowRun]) -> None:
    server, _, page = address.partition("/#")
    view = "workflowType=machine_learning&viewStateShareKey=charlm"
    assert page == f"/experiments/{runs[0].info.experiment_id}/runs?{view}"
    with urllib.request.urlopen(server) as answer:
        assert "<title>MLflow</title>" in answer.read().decode()


def test_list_of_runs_tells_them_apart_at_a_glance(
    page: Page, address: str, runs: list[MlflowRun], picture: Picture
) -> None:
    page.goto(address)
    page.get_by_role("button", name="Hide banner").click()
    for heading in ("loss/test", "charlm.text", "model.name", *SWEPT):
        expect(page.get_by_test_id(f"sort-header-{heading}")).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("link", name="sweep-")).to_have_text([run.info.run_name for run in runs])
    assert values(page, "metrics.`loss/test`") == [run.data.metrics["loss/test"] for run in runs]
    rates = [float(run.data.params["train.learning_rate"]) for run in runs]
    assert values(page, "params.`train.learning_rate`") == rates
    expect(page.get_by_role("button", name="Sort: loss/test")).to_be_visible()
    picture("run-list", height=700)


def test_charts_show_losses_side_by_side_then_beside_their_references_then_what_a_sweep_varied(
    page: Page, address: str, runs: list[MlflowRun], picture: Picture
) -> None:
    page.goto(f"{address}&compareRunsMode=CHART")
    page.get_by_role("button", name="Hide banner").click()
    train, test = (page.get_by_text(f"loss/{split}", exact=True).first for split in ("train", "test"))
    expect(train).to_be_visible()
    expect(test).to_be_visible()
    assert side_by_side(train, test)
    best = runs[0].info.run_name
    for key in ("loss/train", "loss/test", "reference/uniform", "reference/bigram_counts"):
        expect(page.get_by_text(f"{best} ({key})").last).to_be_visible()
    picture("charts", height=1130)
    scroll_to(page, "What was varied, and what came of it")
    for axis in (*SWEPT, "loss/train", "loss/test"):
        expect(page.locator("svg").get_by_text(axis, exact=True).first).to_be_visible()
    picture("sweep", height=730)


def test_ladder_shows_every_model_by_the_seconds_it_trained_beside_the_references(
    page: Page, address: str, sweep: Path, picture: Picture
) -> None:
    experiment = MlflowClient(f"sqlite:///{sweep / 'mlflow.db'}").get_experiment_by_name("ladder")
    assert experiment is not None
    ladder = re.sub(r"experiments/\d+", f"experiments/{experiment.experiment_id}", address)
    page.goto(f"{ladder}&compareRunsMode=CHART")
    page.get_by_role("button", name="Hide banner").click()
    scroll_to(page, "Test loss by seconds of training")
    for name in ("notebook", *MODELS):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    picture("ladder", height=730)


def test_page_of_a_run_describes_it_with_its_figures_and_its_dataset(
    run_page: Page, runs: list[MlflowRun], picture: Picture
) -> None:
    [best, *_] = runs
    expect(run_page.get_by_role("heading", name=best.info.run_name)).to_be_visible()
    expect(run_page.get_by_text("Show more")).to_be_visible()
    run_page.get_by_text("Show more").click()
    expect(run_page.get_by_role("strong").filter(has_text=f"{best.data.metrics['loss/test']:.4f}")).to_be_visible()
    expect(run_page.get_by_text(f"charlm reproduce {best.info.run_id[:12]}")).to_be_visible()
    expect(run_page.get_by_role("row", name="test split: pairs as often as in the train split")).to_contain_text(
        "bigram_counts"
    )
    perplexity = best.data.metrics["perplexity/test"]
    expect(run_page.get_by_role("row", name=f"perplexity/test {perplexity}")).to_be_visible()
    picture("run", height=1000)
    run_page.get_by_role("button", name=re.compile(r"tale train \((?!#)")).click()
    for entry in best.inputs.dataset_inputs:
        expect(run_page.get_by_text(f"{entry.dataset.name} ({entry.dataset.digest}").last).to_be_visible()


def test_artifacts_are_samples_to_read_and_figures_to_look_at(
    run_page: Page, sweep: Path, runs: list[MlflowRun], picture: Picture
) -> None:
    place = run_page.get_by_text("Path: ")
    run_page.get_by_role("tab", name="Artifacts").click()
    run_page.get_by_text("samples").click()
    run_page.get_by_text("trained.txt", exact=True).click()
    sample = (sweep / f"mlartifacts/{runs[0].info.run_id}/artifacts/samples/trained.txt").read_text()
    for line in filter(None, (line.strip() for line in sample.splitlines())):
        expect(run_page.get_by_text(line).first).to_be_visible()
    picture("sample", place)
    run_page.get_by_text("figures").click()
    for name in ("loss", "next_char"):
        run_page.get_by_text(f"{name}.png").click()
        image = run_page.get_by_role("img", name=f"figures/{name}.png")
        expect(image).to_be_visible()
        expect(image).not_to_have_js_property("naturalWidth", 0)
        picture(name.replace("_", "-"), place)


def test_two_runs_are_compared(page: Page, address: str, runs: list[MlflowRun], picture: Picture) -> None:
    page.goto(address)
    best, worst = runs[0], runs[-1]
    for run in (best, worst):
        row = page.get_by_role("row").filter(has=page.get_by_text(run.info.run_name, exact=True))
        row.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment")).to_be_visible()
    expect(page.get_by_role("tab", name="Parallel Coordinates Plot")).to_be_visible()
    expect(page.locator("svg").get_by_text("train.learning_rate", exact=True)).to_be_visible()
    expect(page.get_by_text("WebGL is not supported")).to_have_count(0)
    for run in (best, worst):
        expect(page.get_by_role("row", name="Run Name:")).to_contain_text(run.info.run_name)
        for name in ("train.learning_rate", "train.batch_size"):
            expect(page.get_by_role("row", name=name)).to_contain_text(run.data.params[name])
    picture("compare")


@pytest.fixture(scope="session")
def promoted(sweep: Path, runs: list[MlflowRun]) -> MlflowRun:
    """The best run, its model promoted."""
    charlm(sweep, "promote", runs[0].info.run_id)
    return runs[0]


def test_page_of_a_run_leads_to_its_model_with_an_example_of_what_goes_in(
    promoted: MlflowRun, run_page: Page, sweep: Path, picture: Picture
) -> None:
    run_page.get_by_role("grid").get_by_role("link", name="charlm").first.click()
    expect(run_page.get_by_role("heading", name="charlm")).to_be_visible()
    expect(run_page.get_by_role("link", name=promoted.info.run_name).first).to_be_visible()
    run_page.get_by_text("Artifacts", exact=True).click()
    run_page.get_by_text("input_example.json", exact=True).click()
    opening = next(filter(str.strip, (sweep / "data/download/book.txt").read_text().splitlines())).strip()[:40]
    expect(run_page.get_by_text(opening).first).to_be_visible()
    picture("model", run_page.get_by_text("Path: "), height=560)


def test_registry_shows_the_champion_its_run_and_what_it_takes_and_gives(
    promoted: MlflowRun, page: Page, address: str, picture: Picture
) -> None:
    page.goto(f"{address.partition('#')[0]}#/models/charlm?workflowType=machine_learning")
    version = page.get_by_role("row").filter(has_text="champion")
    expect(version).to_be_visible()
    picture("registry", height=500)
    version.get_by_role("link", name="Version").click()
    expect(page.get_by_role("link", name=promoted.info.run_name)).to_be_visible()
    for part in ("Inputs", "Outputs"):
        expect(page.get_by_text(f"{part} (")).to_be_visible()
