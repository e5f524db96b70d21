"""Fetch the texts of data.source, strip what is not the book, join them, and check the digest of the result."""

from pathlib import Path

from charlm.config import address, load_params, project_root
from charlm.text import collection
from stages import stage


@stage
def main(out: Path) -> None:
    params = load_params()
    collection.require_all(params.data.source, project_root())
    collection.write(
        out / "book.txt",
        collection.expand(params.data.source),
        kept=project_root() / out / "texts",  # also for an experiment that DVC runs in a temporary folder
        sha256=params.data.sha256,
        mirror=address("CHARLM_GUTENBERG_MIRROR", project_root()) or None,
    )


if __name__ == "__main__":
    main()
