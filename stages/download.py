"""Fetch the book, or several, strip them of what is not the book, and check the whole against its digest."""

import os
from functools import partial
from pathlib import Path

import click

from charlm.config import load_params, project_root
from charlm.files import write_text
from charlm.text import collection as shelf
from charlm.text import gutenberg
from charlm.text import http as fetch


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    params = load_params()
    mirror = os.environ.get("CHARLM_GUTENBERG_MIRROR")
    source = shelf.expand(params.data.source)
    shelf.require_all(params.data.source, project_root())
    if isinstance(source, str):
        write_text(out / "book.txt", gutenberg.book(source, mirror=mirror, sha256=params.data.sha256))
    else:
        serve = partial(gutenberg.serve, mirror=mirror, turn=fetch.Turns())
        kept = project_root() / out / "texts"  # also for an experiment that DVC runs in a temporary folder
        shelf.write(out / "book.txt", source, serve=serve, kept=kept, sha256=params.data.sha256)


if __name__ == "__main__":
    main()
