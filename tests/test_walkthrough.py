"""docs/walkthrough.ipynb runs, and gives the outputs that are stored in it."""

from pathlib import Path

import nbformat
import pytest

from tests import walkthrough

VARIES = "varies"
"""The tag of a cell whose outputs depend on the machine: timings, and what is computed in float32."""


def shown(cell: nbformat.NotebookNode) -> list[object]:
    """The outputs of a cell: their text, or the types of a picture."""
    return [output.get("text") or sorted(output["data"]) for output in cell.outputs]


@pytest.mark.long
def test_outputs_are_the_stored_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make notebook` stores them."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    notebooks = (walkthrough.read(), walkthrough.executed())
    stored, executed = ([cell for cell in book.cells if cell.cell_type == "code"] for book in notebooks)
    for before, after in zip(stored, executed, strict=True):
        if VARIES in before.metadata.get("tags", []):
            assert len(shown(after)) == len(shown(before)), before.source
        else:
            assert shown(after) == shown(before), before.source
