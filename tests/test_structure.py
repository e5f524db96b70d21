"""The project's shape: what imports what, and what dvc.yaml declares of it."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

PROJECT = Path(__file__).resolve().parent.parent
STAGES: dict[str, Any] = YAML(typ="safe").load(PROJECT / "dvc.yaml")["stages"]
ORDER = ["download", "prepare", "train", "evaluate", "sample", "record"]


def imports(path: str) -> set[str]:
    """The charlm modules that a file imports anywhere in it, as paths."""
    found = set()
    for node in ast.walk(ast.parse((PROJECT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "charlm":
            found |= {f"charlm/{alias.name}.py" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("charlm."):
            found.add(f"{str(node.module).replace('.', '/')}.py")
    return found


def all_imports(path: str) -> set[str]:
    """Those, and what they import in turn."""
    found, new = set[str](), {path}
    while new:
        new = set().union(*(imports(name) for name in new)) - found
        found |= new
    return found


def params_used(path: str) -> set[str]:
    """The sections that a stage reads off its `params`."""
    tree = ast.parse((PROJECT / path).read_text())
    chains = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    return {node.attr for node in chains if ast.unparse(node.value) == "params"}


def test_stages_stand_in_the_order_that_they_run_in() -> None:
    assert list(STAGES) == ORDER
    assert {path.stem for path in (PROJECT / "stages").glob("*.py")} == {*ORDER, "__init__"}


@pytest.mark.parametrize("stage", ORDER)
def test_declared_code_is_what_the_stage_imports(stage: str) -> None:
    declared = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert declared == {f"stages/{stage}.py"} | all_imports(f"stages/{stage}.py")


@pytest.mark.parametrize("stage", ORDER)
def test_declared_params_are_what_the_stage_reads(stage: str) -> None:
    assert set(STAGES[stage].get("params", [])) == params_used(f"stages/{stage}.py")


@pytest.mark.parametrize("stage", ORDER)
def test_stage_reads_what_stages_before_it_wrote_and_writes_its_own_folder(stage: str) -> None:
    before = {f"data/{name}/" for name in ORDER[: ORDER.index(stage)]}
    read = [dep for dep in STAGES[stage]["deps"] if dep.startswith("data/")]
    assert {dep[: dep.rindex("/") + 1] for dep in read} <= before
    written = [name for out in _outputs(stage) for name in ([out] if isinstance(out, str) else out)]
    assert {name[: name.rindex("/") + 1] for name in written} == {f"data/{stage}/"}


def _outputs(stage: str) -> list[Any]:
    return [*STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", [])]


@pytest.mark.parametrize(
    ("library", "module"), [("mlflow", "charlm/tracking.py"), ("matplotlib", "charlm/plots.py"), ("dvc", None)]
)
def test_one_module_alone_knows_a_library(library: str, module: str | None) -> None:
    users = set()
    for path in [*(PROJECT / "charlm").glob("*.py"), *(PROJECT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == library for name in names):
                users.add(str(path.relative_to(PROJECT)))
    # results and tracking name matplotlib's Figure in annotations only
    typed = {"charlm/results.py", "charlm/tracking.py"} if library == "matplotlib" else set()
    assert users - typed == ({module} if module else set())


def test_imports_point_one_way() -> None:
    modules = [f"charlm/{path.name}" for path in (PROJECT / "charlm").glob("*.py")]
    assert [module for module in modules if module in all_imports(module)] == []
    assert all_imports("charlm/config.py") == {"charlm/errors.py"}
    assert all_imports("charlm/vocabulary.py") == {"charlm/errors.py"}
    above = {"charlm/tracking.py", "charlm/cli.py", "charlm/results.py", "charlm/summary.py"}
    assert [module for module in modules if module not in above and all_imports(module) & above] == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("charlm.cli", {"torch", "mlflow", "matplotlib", "httpx", "numpy"}),
        ("stages.download", {"torch", "mlflow", "matplotlib"}),
        ("stages.prepare", {"torch", "mlflow", "matplotlib", "httpx"}),
        ("stages.train", {"matplotlib", "torch._dynamo", "httpx"}),
        ("stages.evaluate", {"mlflow", "matplotlib"}),
        ("stages.sample", {"mlflow", "matplotlib"}),
        ("stages.record", {"torch"}),
    ],
)
def test_heavy_libraries_are_imported_only_where_they_are_used(module: str, absent: set[str]) -> None:
    show = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert absent & set(loaded.stdout.split()) == set()
