"""The project's shape: what imports what, and what dvc.yaml declares of it."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charlm.config import Params
from tests.code_deps import PROJECT, STAGES, all_imports, code_deps, imports

ORDER = ["download", "prepare", "train", "evaluate", "sample", "record"]
LAYERS = [
    ["exact"],
    ["config.py", "errors.py", "files.py", "random.py"],
    ["text"],
    ["models"],
    ["training"],
    ["evaluation.py"],
    ["results.py", "summary.py"],
    ["provenance"],
    ["tracking"],
    ["cli.py"],
]
"""What is in charlm/, from the ground up: a layer imports only those before it, and itself."""


def params_used(path: str) -> set[str]:
    """The parameters that a stage reads off its `params`, whole sections where it uses one as a whole."""
    tree = ast.parse((PROJECT / path).read_text())
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = [node.value for node in attributes]
    chains = {ast.unparse(node) for node in attributes if node not in inner}
    used = [chain.split(".")[1:3] for chain in chains if chain.startswith("params.")]
    used += [
        [section] for section in ("model", "train") if f"flatten(params, 'model', '{section}')" in ast.unparse(tree)
    ]
    found = {_declared(*names) for names in used}
    if "content_of(results, params, " in ast.unparse(tree):
        found = {"data", "train", "sample", "model"}
    found = {name for name in found if "." not in name or name.partition(".")[0] not in found}
    return found - {"model"} | ({"model.name", "model.${model.name}"} if "model" in found else set())


def _declared(section: str, key: str = "") -> str:
    fields = getattr(Params.model_fields[section].annotation, "model_fields", {})
    return f"{section}.{key}" if key in fields else section


def test_stages_are_in_the_order_that_they_run_in() -> None:
    assert list(STAGES) == ORDER
    assert {path.stem for path in (PROJECT / "stages").glob("*.py")} == {*ORDER, "__init__"}


@pytest.mark.parametrize("stage", ORDER)
def test_declared_code_is_what_the_stage_imports(stage: str) -> None:
    """`make deps` writes it."""
    assert [dep for dep in STAGES[stage]["deps"] if not dep.startswith("data/")] == code_deps(stage)


def test_code_that_decides_nothing_runs_nothing(project: Path, run: Callable[..., Any]) -> None:
    """A reworded hint of MLflow's used to train the model again, a reworded error to fetch the book."""
    for name in ("charlm/tracking/live.py", "charlm/tracking/store.py", "charlm/provenance/code.py"):
        with (project / name).open("a") as file:
            file.write("\n_HINT = 'reworded'\n")
    stages = ("train", "evaluate", "sample")
    assert "up to date" in run(project, "dvc", "status", *stages).stdout
    (project / "charlm/errors.py").write_text((project / "charlm/errors.py").read_text() + "\n_HINT = 'reworded'\n")
    (project / "charlm/training/__pycache__").mkdir(exist_ok=True)
    (project / "charlm/training/__pycache__/old.pyc").touch()
    assert "up to date" in run(project, "dvc", "status", "download", "prepare", *stages).stdout
    with (project / "charlm/training/loop.py").open("a") as file:
        file.write("\n_DECIDES = 1\n")
    assert "charlm/training" in run(project, "dvc", "status", *stages).stdout


def test_fraction_fetches_nothing_and_other_models_settings_train_nothing(
    project: Path, run: Callable[..., Any]
) -> None:
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(params.replace("train_fraction: 0.8", "train_fraction: 0.7"))
    assert "up to date" in run(project, "dvc", "status", "download").stdout
    assert "train_fraction" in run(project, "dvc", "status", "prepare").stdout
    (project / "params.yaml").write_text(params.replace("  bigram: {}\n", "  bigram: {}\n  gpt: {n_layer: 3}\n"))
    assert "up to date" in run(project, "dvc", "status").stdout


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
    ("library", "owner"), [("mlflow", "charlm/tracking/"), ("matplotlib", "charlm/tracking/figures.py"), ("dvc", None)]
)
def test_one_place_alone_knows_a_library(library: str, owner: str | None) -> None:
    users = set()
    for path in [*MODULES, *(f"stages/{stage}.py" for stage in ORDER)]:
        for node in ast.walk(ast.parse((PROJECT / path).read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == library for name in names):
                users.add(path)
    typed = {"charlm/tracking/content.py"} if library == "matplotlib" else set()  # names Figure in annotations only
    assert [user for user in users - typed if owner is None or not user.startswith(owner)] == []
    assert bool(users) == (owner is not None)


def test_imports_point_one_way() -> None:
    """No module imports itself by any way, none a layer that comes after its own."""
    layers = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    assert {path.name for path in (PROJECT / "charlm").iterdir()} - {
        "__init__.py",
        "__pycache__",
        "py.typed",
    } == layers.keys()
    found = {module: sorted(imports(module)) for module in MODULES}
    assert [module for module in MODULES if module in all_imports(module)] == []
    wrong = [
        (module, name)
        for module, names in found.items()
        for name in names
        if layers[name.split("/")[1]] > layers.get(module.split("/")[1], 0)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("charlm.cli", {"torch", "mlflow", "matplotlib", "httpx", "numpy", "pydantic", "ruamel.yaml", "rich", "dvc"}),
        ("stages.download", {"torch", "mlflow", "matplotlib"}),
        ("stages.prepare", {"torch", "mlflow", "matplotlib", "httpx"}),
        ("stages.train", {"matplotlib", "torch", "httpx", "mlflow", "numpy"}),
        ("stages.evaluate", {"torch", "mlflow", "matplotlib"}),
        ("stages.sample", {"torch", "mlflow", "matplotlib"}),
        ("charlm.models.table", {"torch"}),
        ("stages.record", {"torch"}),
    ],
)
def test_heavy_libraries_are_imported_only_where_they_are_used(module: str, absent: set[str]) -> None:
    show = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert absent & set(loaded.stdout.split()) == set()


def test_one_process_imports_no_more_of_torch_distributed_than_torch_does() -> None:
    """And joins no group: `import torch` alone brings a part of it."""
    train = "from charlm.training.loop import *\nfrom charlm.training import processes, resume\n"
    train += "import charlm.models.gpt\nwith processes.joined(torch.device('cpu'), dict): pass\n"
    loaded = []
    for code in ("import torch, torch.optim.adamw", train):
        show = f"{code}\nimport sys; print(*(m for m in sys.modules if m.startswith('torch.distributed')))"
        shown = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True, cwd=PROJECT)
        loaded.append(set(shown.stdout.split()))
    assert loaded[0] >= loaded[1]


@pytest.mark.xdist_group("one")
def test_tests_of_a_group_are_run_by_one_process(request: pytest.FixtureRequest) -> None:
    """With pytest 9.2 the groups of pytest-xdist 3.8 broke: every process started its own server."""
    assert "PYTEST_XDIST_WORKER" not in os.environ or request.node.nodeid.endswith("@one")
