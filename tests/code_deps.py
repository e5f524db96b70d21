"""What each stage imports, and so depends on: the import graph of the code, written to dvc.yaml by `make deps`.

A stage depends on all code that decides its files, and on no other (`stages.DECIDE_NOTHING`). Of the models, which are
imported by their names, it depends on the one that params.yaml names, and on what any of them imports.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from charlm.config import MODELS
from stages import DECIDE_NOTHING

PROJECT = Path(__file__).resolve().parent.parent
MODEL = "charlm/models/${model.name}.py"
STAGES: dict[str, Any] = YAML(typ="safe").load(PROJECT / "dvc.yaml")["stages"]
"""What dvc.yaml says of each stage, in its order."""


@cache
def imports(path: str) -> frozenset[str]:
    """The files of charlm that a file imports anywhere in it, packages as their __init__.py."""
    found = set()
    for node in ast.walk(ast.parse((PROJECT / path).read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: a relative import"
        assert not (isinstance(node, ast.Import) and any(a.name.startswith("charlm") for a in node.names)), path
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "charlm":
            base = str(node.module).replace(".", "/")
            found |= {f"{base}.py", f"{base}/__init__.py", *(f"{base}/{alias.name}.py" for alias in node.names)}
    return frozenset(name for name in found if (PROJECT / name).is_file() and has_code(name))


@cache
def has_code(path: str) -> bool:
    """Whether a file has more than a docstring."""
    return len(ast.parse((PROJECT / path).read_text(encoding="utf-8")).body) > 1


def all_imports(path: str) -> set[str]:
    """The files of charlm that a file imports, directly or not."""
    found, new = set[str](), {path}
    while new:
        new = set().union(*(imports(name) for name in new)) - found
        found |= new
    return found


def model_files() -> set[str]:
    """The file of each model in the registry that learns."""
    return {f"charlm/models/{model.trainable.partition(':')[0]}.py" for model in MODELS.values()}


def code_deps(stage: str) -> list[str]:
    """What `stage` depends on in dvc.yaml, code alone: files, and folders of which it depends on every file."""
    path = f"stages/{stage}.py"
    found = {path} | all_imports(path)
    if "charlm/models/__init__.py" in found:
        found |= {MODEL}.union(*(all_imports(name) for name in model_files()))
    decide_nothing = DECIDE_NOTHING[:1] if stage == "record" else DECIDE_NOTHING  # its files are what MLflow has
    found = {name for name in found if not name.startswith(decide_nothing)} - model_files()
    return sorted(_folders(found))


def _folders(files: set[str]) -> set[str]:
    for folder in {str(Path(name).parent) for name in files} - {"charlm", "stages"}:
        inside = {str(path.relative_to(PROJECT)) for path in (PROJECT / folder).glob("*.py")}
        if {name for name in inside if has_code(name)} <= files:
            files = files - inside | {folder}
    return files


def main() -> None:
    """Write the code that each stage depends on to dvc.yaml, before the data that it does."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    pipeline: Any = yaml.load(PROJECT / "dvc.yaml")
    for stage, settings in pipeline["stages"].items():
        settings["deps"] = code_deps(stage) + [dep for dep in settings["deps"] if dep.startswith("data/")]
    yaml.dump(pipeline, PROJECT / "dvc.yaml")


if __name__ == "__main__":
    main()
