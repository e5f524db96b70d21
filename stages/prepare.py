"""Turn the book into a vocabulary, two arrays of tokens, and the losses that counting alone comes to on them."""

from pathlib import Path

from rich.console import Console

from charlm.config import load_params
from charlm.files import read_text, write_json, write_text
from charlm.text.corpus import Split, save_tokens, split_sizes
from charlm.text.references import references
from charlm.text.vocabulary import Vocabulary
from stages import stage


@stage
def main(download: Path, out: Path) -> None:
    params = load_params()
    book = download / "book.txt"
    vocabulary, length = Vocabulary.from_texts(read_text(book))
    sizes = split_sizes(length, len(vocabulary), params.data.train_fraction)
    paths = [out / "train.npy", out / "test.npy"]
    save_tokens(dict(zip(paths, sizes, strict=True)), vocabulary.dtype, map(vocabulary.encode, read_text(book)))
    train, test = (Split.load(path, len(vocabulary)) for path in paths)
    write_text(out / "vocabulary.json", vocabulary.to_json())
    with Console(stderr=True).status("counting the references"):  # half a minute for 20 million characters
        losses = references(train, test)
    write_json(out / "references.json", losses)


if __name__ == "__main__":
    main()
