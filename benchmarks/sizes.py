"""Every recipe on texts of several sizes: the table in docs/your-text.md.

The texts are the source code of Python's standard library without its tests, which every reader has: whole files, in an
order that has nothing to do with their names, as many as fill each size.
"""

import json
import re
import sysconfig
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import click
from ruamel.yaml import YAML

from benchmarks.ladder import RECIPES, checked_out, run, write_table
from charlm.config import project_root
from charlm.files import write_text
from charlm.tracking.store import Store

SIZES = {"100 kB": 100_000, "1 MB": 1_000_000}
MEASURED = {recipe: title for recipe, title in RECIPES.items() if recipe != "notebook"}
HEADER = f"| text | `kneser_ney` | {' | '.join(MEASURED.values())} |\n|{'---|' * (2 + len(MEASURED))}\n"


@click.command(help=__doc__)
def main() -> None:
    root = project_root()
    with checked_out(root) as folder:
        rows = [_row(folder, title, size) for title, size in SIZES.items()]
    write_table(root / "docs/your-text.md", HEADER, rows)


def _row(folder: Path, title: str, size: int) -> str:
    """Run every recipe on a text of `size` bytes; its row of the table."""
    write_text(folder / "library.txt", _library(size))
    store, cells = Store(folder), []
    for recipe in MEASURED:
        params = YAML().load(folder / f"recipes/{recipe}.yaml")
        params["data"] |= {"source": "library.txt", "sha256": None}
        YAML().dump(params, folder / "params.yaml")
        losses, _ = run(folder, recipe, store)
        cells.append(f"{losses['test']:.3f}")
    references = json.loads((folder / "data/prepare/references.json").read_text(encoding="utf-8"))
    return f"| {title} | {references['kneser_ney']:.3f} | {' | '.join(cells)} |\n"


def _library(size: int) -> str:
    """The first `size` characters of the library."""
    text = ""
    for source in _sources():
        text += source + "\n"
        if len(text) >= size:
            break
    return text[:size]


def _sources() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    names = [path.relative_to(library).as_posix() for path in library.rglob("*.py")]
    for name in sorted(names, key=lambda name: sha256(name.encode()).digest()):
        if not re.search("test|-packages", name):
            yield (library / name).read_text(encoding="utf-8", errors="ignore")


if __name__ == "__main__":
    main()
