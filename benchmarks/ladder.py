"""The ladder: every recipe on the book, from the bigram to the GPT, run by DVC and recorded in the project's store.

It writes the table in README.md. The runs are named after their recipes; `charlm ui` shows them beside the references.
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path

import click
import safetensors

from charlm.config import project_root
from charlm.files import sha256, write_text
from charlm.provenance import repository
from charlm.tracking.store import CHECKPOINT_TAG, Store

RECIPES = {
    "notebook": "bigram, the notebook's settings",
    "bigram": "bigram",
    "mlp": "MLP",
    "gru": "GRU",
    "gpt": "GPT",
}
REFERENCES = {
    "uniform": "every character equally likely",
    "unigram": "single characters, counted",
    "bigram_counts": "pairs, counted",
    "kneser_ney": "Kneser-Ney, six characters, counted",
}
CHECKPOINT = Path("data/train/model.safetensors")
HEADER = "| | parameters | seconds | train loss | test loss |\n|---|---|---|---|---|\n"


@click.command(help=__doc__)
def main() -> None:
    root = project_root()
    store = Store(root)
    with checked_out(root) as folder:
        rows = [_row(folder, recipe, title, store) for recipe, title in RECIPES.items()]
        references = json.loads((folder / "data/prepare/references.json").read_text(encoding="utf-8"))
    rows += [
        (references[name], f"| *{title}* (`{name}`) | | | | *{references[name]:.4f}* |\n")
        for name, title in REFERENCES.items()
    ]
    write_table(root / "README.md", HEADER, [row for _, row in sorted(rows, reverse=True)])


@contextmanager
def checked_out(root: Path) -> Iterator[Path]:
    """The project in `root` as it was committed last, in a temporary folder."""
    commit = repository.require(repository.run(root, "git", "rev-parse", "HEAD")).decode().strip()
    with tempfile.TemporaryDirectory(prefix="charlm-bench.") as temporary:
        yield repository.check_out(root, commit, Path(temporary) / "project")


def write_table(page: Path, header: str, rows: Sequence[str]) -> None:
    """Replace the rows below `header` in `page`."""
    table = re.compile(re.escape(header) + r"(?:\|.*\n)*")
    write_text(page, table.sub(lambda _: header + "".join(rows), page.read_text(encoding="utf-8")))


def _row(folder: Path, recipe: str, title: str, store: Store) -> tuple[float, str]:
    """Run a recipe in `folder`; its test loss and its row of the table."""
    shutil.copy(folder / f"recipes/{recipe}.yaml", folder / "params.yaml")
    losses, seconds = run(folder, recipe, store)
    with safetensors.safe_open(folder / CHECKPOINT, framework="np") as file:
        size = sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 not a dict
    of_splits = " | ".join(f"{loss:.4f}" for loss in losses.values())
    return losses["test"], f"| {title} (`recipes/{recipe}.yaml`) | {size:,} | {seconds:.3g} | {of_splits} |\n"


def run(folder: Path, recipe: str, store: Store) -> tuple[dict[str, float], float]:
    """Run the params.yaml in `folder`, recorded in `store` as `recipe`; the loss of each split, seconds of training."""
    command = ["dvc", "repro", "--force", "train", "evaluate", "sample", "record"]
    settings = {"DVC_EXP_NAME": recipe, "MLFLOW_TRACKING_URI": store.uri}
    subprocess.run(command, cwd=folder, env=repository.environment() | settings, check=True)
    metrics = json.loads((folder / "data/evaluate/metrics.json").read_text(encoding="utf-8"))
    found = store.runs(f"tags.`{CHECKPOINT_TAG}` = '{sha256(folder / CHECKPOINT)}'")
    seconds = max(run.data.metrics.get("time/seconds", 0.0) for run in found)
    return {split: metrics[split]["loss"] for split in ("train", "test")}, seconds


if __name__ == "__main__":
    main()
