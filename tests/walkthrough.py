"""Run docs/walkthrough.ipynb; `python -m tests.walkthrough` stores the outputs in it."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

WALKTHROUGH = Path(__file__).resolve().parent.parent / "docs/walkthrough.ipynb"


def read() -> nbformat.NotebookNode:
    """The notebook with the outputs that are stored in it."""
    return nbformat.read(WALKTHROUGH, as_version=4)


def executed() -> nbformat.NotebookNode:
    """The notebook with the outputs of a new run."""
    where = {"metadata": {"path": str(WALKTHROUGH.parent)}}
    client = NotebookClient(read(), coalesce_streams=True, record_timing=False, resources=where)
    notebook = client.execute()
    del notebook.metadata["language_info"]["version"]
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(), WALKTHROUGH)
