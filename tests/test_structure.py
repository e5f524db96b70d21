"""The project's shape: what imports what, and what dvc.yaml declares of it."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from charlm.tracking.logged_model import CODE

PROJECT = Path(__file__).resolve().parent.parent
STAGES: dict[str, Any] = YAML(typ="safe").load(PROJECT / "dvc.yaml")["stages"]
ORDER = ["download", "prepare", "train", "evaluate", "sample", "record"]


def imports(path: str) -> set[str]:
    """The charlm modules that a file imports anywhere in it, as paths."""
    found = set()
    for node in ast.walk(ast.parse((PROJECT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "charlm":
            base = str(node.module).replace(".", "/")
            found |= {f"{base}.py", *(f"{base}/{alias.name}.py" for alias in node.names)}
    return {name for name in found if (PROJECT / name).is_file()}


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


MODULES = [str(path.relative_to(PROJECT)) for path in (PROJECT / "charlm").rglob("*.py")]


@pytest.mark.parametrize(
    ("library", "owner"), [("mlflow", "charlm/tracking/"), ("matplotlib", "charlm/plots.py"), ("dvc", None)]
)
def test_one_place_alone_knows_a_library(library: str, owner: str | None) -> None:
    users = set()
    for path in [*MODULES, *(f"stages/{stage}.py" for stage in ORDER)]:
        for node in ast.walk(ast.parse((PROJECT / path).read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == library for name in names):
                users.add(path)
    # results and record name matplotlib's Figure in annotations only
    typed = {"charlm/results.py", "charlm/tracking/record.py"} if library == "matplotlib" else set()
    assert [user for user in users - typed if owner is None or not user.startswith(owner)] == []
    assert bool(users) == (owner is not None)


def test_model_in_mlflow_holds_the_code_that_it_runs() -> None:
    assert all_imports("charlm/tracking/served.py") == {f"charlm/{name}.py" for name in CODE if name != "__init__"}


def test_imports_point_one_way() -> None:
    assert [module for module in MODULES if module in all_imports(module)] == []
    assert all_imports("charlm/config.py") == {"charlm/errors.py"}
    assert all_imports("charlm/vocabulary.py") == {"charlm/errors.py"}
    above = {"cli", "reproduction", "results", "summary", "sync"}
    above = {f"charlm/{name}.py" for name in above} | {name for name in MODULES if "/tracking/" in name}
    assert [module for module in MODULES if module not in above and all_imports(module) & above] == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("charlm.cli", {"torch", "mlflow", "matplotlib", "httpx", "numpy", "pydantic", "ruamel.yaml", "rich", "dvc"}),
        ("stages.download", {"torch", "mlflow", "matplotlib"}),
        ("stages.prepare", {"torch", "mlflow", "matplotlib", "httpx"}),
        ("stages.train", {"matplotlib", "torch._dynamo", "httpx", "mlflow"}),
        ("stages.evaluate", {"mlflow", "matplotlib"}),
        ("stages.sample", {"mlflow", "matplotlib"}),
        ("stages.record", {"torch"}),
    ],
)
def test_heavy_libraries_are_imported_only_where_they_are_used(module: str, absent: set[str]) -> None:
    show = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert absent & set(loaded.stdout.split()) == set()


def test_one_process_imports_no_more_of_torch_distributed_than_torch_does() -> None:
    """And joins no group: `import torch` alone brings a part of it."""
    train = "from stages.train import *\nwith distributed.shared(torch.device('cpu'), dict): pass\n"
    loaded = []
    for code in ("import torch, torch.optim.adamw", train):
        show = f"{code}\nimport sys; print(*(m for m in sys.modules if m.startswith('torch.distributed')))"
        shown = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True, cwd=PROJECT)
        loaded.append(set(shown.stdout.split()))
    assert loaded[0] >= loaded[1]
