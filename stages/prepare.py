"""Turn the book into a vocabulary and two arrays of tokens, and compute the losses of models that only count."""

from pathlib import Path

from rich.console import Console

from charlm.config import load_params
from charlm.files import read_text, write_json, write_text
from charlm.text.corpus import load_splits, save_tokens, split_sizes
from charlm.text.references import references
from charlm.text.vocabulary import Vocabulary
from stages import stage


@stage
def main(download: Path, out: Path) -> None:
    params = load_params()
    book = download / "book.txt"
    vocabulary, length = Vocabulary.from_texts(read_text(book))
    sizes = split_sizes(length, len(vocabulary), params.data.train_fraction)
    files = dict(zip((out / "train.npy", out / "test.npy"), sizes, strict=True))
    save_tokens(files, vocabulary.dtype, map(vocabulary.encode, read_text(book)))
    train, test = load_splits(out, len(vocabulary))
    write_text(out / "vocabulary.json", vocabulary.to_json())
    with Console(stderr=True).status("counting the references"):  # half a minute for 20 million characters
        losses = references(train, test)
    write_json(out / "references.json", losses)


if __name__ == "__main__":
    main()
