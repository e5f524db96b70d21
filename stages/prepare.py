"""Turn the book into a vocabulary and two arrays of tokens."""

from pathlib import Path

import click

from charlm import sources
from charlm.config import load_params
from charlm.corpus import save_tokens, split
from charlm.files import write_text
from charlm.vocabulary import Vocabulary


@click.command(help=__doc__)
@click.argument("download", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(download: Path, out: Path) -> None:
    code = sources.digests()
    params = load_params()
    text = (download / "book.txt").read_bytes().decode()
    vocabulary = Vocabulary.from_text(text)
    train, test = split(vocabulary.encode(text), params.data.train_fraction)
    write_text(out / "vocabulary.json", vocabulary.to_json())
    save_tokens(out / "train.npy", train)
    save_tokens(out / "test.npy", test)
    sources.require_unchanged(code)


if __name__ == "__main__":
    main()
