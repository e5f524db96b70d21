"""The documentation's Python examples run, its links lead somewhere, and its commands are ones that exist."""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from click.testing import CliRunner

from charlm.cli import main
from tests.conftest import PROJECT, Run

PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
TOOLS = ("charlm", "dvc", "make", "mlflow")
GROUPS = ("db", "exp", "metrics", "models", "params", "plots", "queue", "remote")
"""First words of a command's name that have a second."""
NOT_RUN = {
    "dvc commit": "DVC's own; what it takes for granted, `make verify` checks",
    "dvc exp show": "tests/test_pipeline.py runs it from the page",
    "dvc remote modify": "passwords of remotes that no test has",
    "make bench": "measures for an hour",
    "make deps": "tests/test_structure.py compares what it writes",
    "make exactness": "takes an hour; tests/test_exactness.py runs a part",
    "make help": "prints the Makefile",
    "make ladder": "takes minutes; tests/test_bench.py runs its parts",
    "make lock": "asks a package index",
    "make notebook": "tests/test_walkthrough.py runs the notebook",
    "make screenshots": "tests/test_ui.py without pictures",
}
"""Commands on the pages that no test runs, and why."""


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


def parsed(words: list[str]) -> tuple[str, set[str]]:
    """A command's name without arguments, and its options without values."""
    name = takewhile(re.compile("[a-z]+$").match, words[: 3 if words[1] in GROUPS else 2])
    return " ".join(name), {word.partition("=")[0] for word in words if word.startswith("-")}


def documented() -> Iterator[tuple[str, set[str]]]:
    """Every command of TOOLS on the pages."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        lines = re.findall(r"`([^`\n]+)`", text)
        lines += "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).splitlines()
        for command in re.split(r"&&|[|;\n]", "\n".join(line.partition(" #")[0] for line in lines)):
            words = [word for word in command.split() if not re.match("[A-Z_]+=", word)]
            if len(words) > 1 and words[0] in TOOLS:
                yield parsed(words)


def run_by_tests() -> Iterator[list[str]]:
    """The words of every command of TOOLS in the tests, as arguments, a list or a text, and in .ci/run."""
    yield from (line.split() for line in (PROJECT / ".ci/run").read_text().splitlines() if line.startswith(TOOLS))
    for path in {*(PROJECT / "tests").rglob("test_*.py")} - {Path(__file__)}:
        for node in ast.walk(ast.parse(path.read_text())):
            parts: Iterable[ast.expr] = node.args if isinstance(node, ast.Call) else getattr(node, "elts", [])
            words = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            words = ["charlm", *words] if isinstance(node, ast.Call) and ast.unparse(node.func) == "charlm" else words
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            yield from (found for found in (words, text.split()) if len(found) > 1 and found[0] in TOOLS)


def test_every_command_on_the_pages_is_run_by_a_test_or_listed_with_the_reason_why_not() -> None:
    """The name of a command, and each option that a page gives it."""
    tried: dict[str, set[str]] = {}
    for words in run_by_tests():
        name, options = parsed(words)
        tried.setdefault(name, set()).update(options)
    untried = {
        (name, option)
        for name, options in documented()
        for option in ("", *options)
        if not any(known.startswith(name) and option in {"", *tried[known]} for known in tried)
    }
    assert [(name, option) for name, option in sorted(untried) if name not in NOT_RUN] == []
    assert {name for name, _ in untried} == NOT_RUN.keys()
