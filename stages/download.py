"""Fetch the texts of data.source, strip what is not the book, join them, and check the digest of the result."""

import os
from pathlib import Path

import click

from charlm.config import address, load_params, project_root
from charlm.files import write_json
from charlm.text import collection
from charlm.text.http import Client, authorizations
from stages import stage


@stage
def main(out: Path) -> None:
    params = load_params()
    collection.require_all(params.data.source, project_root())
    sources = collection.expand(params.data.source)
    encodings = collection.write(
        out / "book.txt",
        sources,
        kept=project_root() / out / "texts",  # also for an experiment that DVC runs in a temporary folder
        sha256=params.data.sha256,
        encoding=params.data.encoding,
        mirror=address("CHARLM_GUTENBERG_MIRROR", project_root()) or None,
        client=Client(authorization=authorizations(os.environ.get("CHARLM_AUTHORIZATION", ""))),
    )
    found = [{"source": name, "encoding": str(encoding)} for name, encoding in zip(sources, encodings, strict=True)]
    write_json(out / "sources.json", found)
    for name, encoding in zip(sources, encodings, strict=True):
        if encoding.detected:
            click.echo(f"{name}: {encoding}; data.encoding names another, if that is wrong.", err=True)


if __name__ == "__main__":
    main()
