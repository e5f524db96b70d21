"""The environment of a result: written, read and compared."""

import ast
import sys
from dataclasses import replace
from pathlib import Path

from packaging.utils import canonicalize_name

from charlm.provenance.environment import DECISIVE, Environment

PROJECT = Path(__file__).resolve().parents[3]
NO_RESULT = {"click", "filelock", "psutil", "rich", "sqlalchemy"}
"""What the same files import that computes nothing: command line, progress bars, processes, addresses of stores."""

HERE = Environment("3.11.7", "Linux", "AVX2", 2, {"charlm": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0"})


def test_environment_comes_back_from_json() -> None:
    assert Environment.from_json(HERE.to_json()) == HERE
    here = Environment.here()
    assert Environment.from_json(here.to_json()) == here
    assert here.packages["torch"].startswith("2.13.0")


def test_versions_that_decide_a_result_are_compared_and_the_machine_is_not() -> None:
    other = Environment("3.12.1", "macOS", "DEFAULT", 8, {"charlm": "0.2.0", "numpy": "2.5.0", "click": "8"})
    assert HERE.decisive_differences(other) == [
        "numpy: 2.4.6 on record, 2.5.0 here",
        "python: 3.11 on record, 3.12 here",
        "torch: 2.13.0 on record, not installed here",
    ]
    assert HERE.other_differences(other) == ["click: not installed on record, 8 here"]
    assert HERE.decisive_differences(HERE) == HERE.other_differences(HERE) == []
    assert HERE.machine_differences(other) == [
        "cpu_capability: AVX2 on record, DEFAULT here",
        "platform: Linux on record, macOS here",
    ]


def test_what_decides_no_result_is_listed_and_refuses_nothing() -> None:
    """dvc-s3 or ipython beside charlm, another pip, PyTorch's build for a GPU, a newer mlflow were all refused."""
    more = {"dvc-s3": "3.2", "ipython": "9.1", "pip": "26.0", "mlflow": "3.18", "torch": "2.13.0+cu128"}
    other = replace(HERE, python="3.11.9", packages=HERE.packages | more)
    assert HERE.decisive_differences(other) == []
    assert [line.partition(":")[0] for line in HERE.other_differences(other)] == [
        "dvc-s3",
        "ipython",
        "mlflow",
        "pip",
        "python",
        "torch",
    ]


def test_packages_that_decide_are_those_that_the_computing_code_imports() -> None:
    files = [*PROJECT.glob("stages/*.py"), *PROJECT.glob("charlm/*.py")]
    files += [file for folder in ("text", "models", "training") for file in PROJECT.glob(f"charlm/{folder}/*.py")]
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {
                ".".join(name.split(".")[:2]) if name.startswith("ruamel") else name.split(".")[0] for name in names
            }
    packages = {canonicalize_name(name) for name in found - sys.stdlib_module_names - {"charlm", "stages"}}
    assert packages - NO_RESULT == set(DECISIVE)
