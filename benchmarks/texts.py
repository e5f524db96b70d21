"""Texts of any size from the paragraphs of the bundled tale, permuted and repeated; the same on every machine."""

import random
import string
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Literal

BOOK = 230_000
"""Bytes of a book, about as many as the one in params.yaml has."""
MEGABYTE = 1_000_000

Kind = Literal["ASCII", "multilingual"]
_FIRST = (ord("a"), 0x00E0, 0x03B1, 0x0430, 0x05D0, 0x4E00, 0x1F600)  # Latin, Latin-1, Greek … Chinese, emoji
_ALPHABETS = [str.maketrans(string.ascii_lowercase, "".join(chr(first + i) for i in range(26))) for first in _FIRST]


def paragraphs(root: Path, kind: Kind) -> list[bytes]:
    """The paragraphs of the tale in the project `root`; multilingual, in alphabets with characters of 1 to 4 bytes."""
    _, _, tale, *_ = (root / "tests/tale.txt").read_text(encoding="utf-8").split("***")
    plain = tale.encode("ascii", "ignore").decode()
    found = [paragraph + "\n\n" for paragraph in plain.strip().split("\n\n")]
    if kind == "multilingual":
        found = [text.lower().translate(alphabet) for text, alphabet in zip(found, cycle(_ALPHABETS), strict=False)]
    return [text.encode() for text in found]


def pieces(root: Path, kind: Kind, size: int) -> Iterator[bytes]:
    """About `size` bytes of UTF-8, whole paragraphs, one permutation of the tale at a time."""
    yield from _pieces(paragraphs(root, kind), size, random.Random(1337))  # noqa: S311 nothing secret is drawn


def _pieces(tale: list[bytes], size: int, order: random.Random) -> Iterator[bytes]:
    made = 0
    while made < size:
        order.shuffle(tale)
        piece = b"".join(tale[: _paragraphs_within(tale, size - made)])
        made += len(piece)
        yield piece


def _paragraphs_within(tale: list[bytes], size: int) -> int:
    """How many of the first paragraphs fill `size` bytes."""
    filled = 0
    for count, paragraph in enumerate(tale, 1):
        filled += len(paragraph)
        if filled >= size:
            return count
    return len(tale)


def text(root: Path, kind: Kind, size: int) -> str:
    """A text of about `size` bytes of UTF-8."""
    return b"".join(pieces(root, kind, size)).decode()


def write(path: Path, root: Path, kind: Kind, size: int) -> None:
    """Write a text of about `size` bytes to `path`, one permutation at a time."""
    with path.open("wb") as file:
        file.writelines(pieces(root, kind, size))


def write_books(folder: Path, root: Path, kind: Kind, size: int) -> None:
    """Write books of about BOOK bytes each, `size` in all, to `folder`; in each the paragraphs have another order."""
    tale, order = paragraphs(root, kind), random.Random(1337)  # noqa: S311 nothing secret is drawn
    folder.mkdir()
    for number, start in enumerate(range(0, size, BOOK)):
        (folder / f"{number:06}.txt").write_bytes(b"".join(_pieces(tale, min(BOOK, size - start), order)))
