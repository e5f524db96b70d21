"""Fetch the book, strip it of what is not the book, and check it against its digest."""

import os
from pathlib import Path

import click

from charlm import gutenberg, sources
from charlm.config import load_params
from charlm.files import write_text


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    code = sources.digests()
    params = load_params()
    mirror = os.environ.get("CHARLM_GUTENBERG_MIRROR")
    write_text(out / "book.txt", gutenberg.book(params.data.source, mirror=mirror, sha256=params.data.sha256))
    sources.require_unchanged(code)


if __name__ == "__main__":
    main()
