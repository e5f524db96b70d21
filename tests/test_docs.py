"""The documentation's Python examples run, its links lead somewhere, and its commands are ones that exist."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from charlm.cli import main
from tests.conftest import PROJECT, Run

PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_python_example_runs_on_the_result_of_the_pipeline(finished_project: Path, run: Run) -> None:
    [example] = blocks(PROJECT / "docs/dvc-and-mlflow.md", "python")
    printed = run(finished_project, "python", "-c", example).stdout
    before, loss, after = re.split(r"^(\d+\.\d+)$", printed, flags=re.MULTILINE)
    metrics = json.loads((finished_project / "data/evaluate/metrics.json").read_text())
    assert float(loss) == pytest.approx(metrics["test"]["loss"], abs=1e-6)
    assert (finished_project / "data/download/book.txt").read_text().startswith(before.removesuffix("\n"))
    likely, generated = after.lstrip("\n").split("\n", 1)
    assert likely.count(":") == 3
    assert (generated[:4], len(generated)) == ("the ", 4 + 60 + 1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings]
            assert heading in slugs, f"{target}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_make_and_charlm_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join([*blocks(page, "bash"), *re.findall(r"`([^`\n]+)`", page.read_text())])
    assert set(re.findall(r"^make ([a-z]+)", code, re.MULTILINE)) <= targets
    for name in set(re.findall(r"^charlm ([a-z]+)", code, re.MULTILINE)):
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0, name
