"""The characters of a text and their tokens: text to integers and back, without loss.

A token is the index of a character in the sorted list of the distinct characters, as in the notebook that this project
started from. Both ways look up whole arrays in a table over code points. Encoding goes block by block, so that its
intermediate arrays stay in the processor's cache.
"""

import hashlib
import json
import sys
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CharlmError
from charlm.files import BLOCK


class UnknownCharacterError(CharlmError):
    """A text has a character that is not in the vocabulary."""

    def __init__(self, character: str, position: int, size: int) -> None:
        name = unicodedata.name(character, "no name")
        super().__init__(
            f"Character {character!r} (U+{ord(character):04X}, {name}) at position {position} "
            f"is not among the {size} characters of the vocabulary.",
            fix="Remove it, or train on a text that contains it.",
        )


@dataclass(frozen=True)
class Vocabulary:
    """Sorted distinct characters; the token of a character is its index."""

    characters: str

    def __post_init__(self) -> None:
        assert list(self.characters) == sorted(set(self.characters)), "characters that are not sorted and distinct"

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> tuple[Self, int]:
        """The vocabulary of all characters of `texts`, which are read once, and their length in all."""
        seen, length = np.zeros(sys.maxunicode + 1, dtype=bool), 0
        for text in texts:
            seen[_code_points(text)] = True
            length += len(text)
        return cls("".join(map(chr, np.flatnonzero(seen)))), length

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what to_json wrote from the file `path`. Raises CharlmError for any other content."""
        content = path.read_bytes()
        with suppress(ValueError, TypeError, KeyError):
            characters = json.loads(content)["characters"]
            joined = "".join(characters)
            joined.encode()  # ValueError for half of a surrogate pair
            if characters == sorted(set(joined)):
                return cls(joined)
        raise CharlmError(
            f"{path} is not a vocabulary: it begins with {content.decode(errors='replace')[:40]!r}.",
            'Expected JSON of the form {"characters": ["a", "b"]}, sorted, each character once.',
            "Run `dvc repro prepare --force` to write it again.",
        )

    def to_json(self) -> str:
        """JSON with the characters in the order of their tokens."""
        return json.dumps({"characters": list(self.characters)}, ensure_ascii=False, indent=0) + "\n"

    def __len__(self) -> int:
        """The number of characters, V."""
        return len(self.characters)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned integer type for every token."""
        return np.min_scalar_type(max(len(self) - 1, 0))

    @property
    def digest(self) -> str:
        """SHA-256 of the characters in order, in hexadecimal: equal for two vocabularies that give the same tokens."""
        return hashlib.sha256(self.characters.encode()).hexdigest()

    @property
    def labels(self) -> list[str]:
        r"""A readable name of each character, for the axes of a picture: itself, `space`, or its escape (`\n`).

        No two are the same: every name other than the character itself is longer than one character.
        """
        return ["space" if c == " " else c if c.isprintable() else repr(c)[1:-1] for c in self.characters]

    @cached_property
    def _code_points(self) -> NDArray[np.uint32]:
        """(V,): the code point of each token."""
        return _code_points(self.characters)

    @cached_property
    def _tokens(self) -> NDArray[Any]:
        """(largest code point + 2,): the token of each code point, V for those that are absent.

        The last entry is for all larger code points.
        """
        table = np.full(int(self._code_points.max(initial=0)) + 2, len(self), dtype=np.min_scalar_type(len(self)))
        table[self._code_points] = np.arange(len(self))
        return table

    @cached_property
    def _byte_tokens(self) -> bytes:
        """The first 256 entries of a table of tokens that are bytes, for `bytes.translate`."""
        return np.take(self._tokens, np.arange(256), mode="clip").tobytes()

    def encode(self, text: str) -> NDArray[Any]:
        """Tokens of `text`, shape (len(text),), of the smallest type for the vocabulary.

        Raises UnknownCharacterError for the first character that is not in the vocabulary.
        """
        tokens = np.empty(len(text), dtype=self.dtype)
        for start in range(0, len(text), BLOCK):
            block = text[start : start + BLOCK]
            found = self._look_up(block)
            if found.max() == len(self):
                position = int(np.argmax(found))
                raise UnknownCharacterError(block[position], start + position, len(self))
            tokens[start : start + BLOCK] = found
        return tokens

    def _look_up(self, text: str) -> NDArray[Any]:
        """Tokens of `text`, shape (len(text),), V where a character is absent."""
        if text.isascii() and self._tokens.itemsize == 1:
            return np.frombuffer(text.encode().translate(self._byte_tokens), dtype=np.uint8)
        return np.take(self._tokens, _code_points(text), mode="clip")

    def decode(self, tokens: NDArray[Any]) -> str:
        """The text of `tokens`, all of them in the vocabulary, shape (N,)."""
        return str(self._code_points[tokens].tobytes(), "utf-32-le")


def _code_points(text: str) -> NDArray[np.uint32]:
    """The code point of each character of `text`, shape (len(text),)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
