"""Turn the book into a vocabulary and two arrays of tokens: one pass for the characters, one to encode."""

from pathlib import Path

import click

from charlm import sources
from charlm.config import load_params
from charlm.files import read_text, write_text
from charlm.text.corpus import save_tokens, split
from charlm.text.vocabulary import Vocabulary


@click.command(help=__doc__)
@click.argument("download", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(download: Path, out: Path) -> None:
    code = sources.digests()
    params = load_params()
    book = download / "book.txt"
    vocabulary, length = Vocabulary.from_texts(read_text(book))
    train, test = split(length, len(vocabulary), params.data.train_fraction)
    write_text(out / "vocabulary.json", vocabulary.to_json())
    sizes = {out / "train.npy": train, out / "test.npy": test}
    save_tokens(sizes, vocabulary.dtype, map(vocabulary.encode, read_text(book)))
    sources.require_unchanged(code)


if __name__ == "__main__":
    main()
