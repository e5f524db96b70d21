"""The characters of a text and their tokens: text to integers and back, without loss.

A token is the index of a character in the sorted list of the distinct characters, as in the notebook that this
project started from. Encoding and decoding look whole arrays up at once in a table over code points, a text block by
block: what a block needs on its way stays in the processor's cache.
"""

import hashlib
import json
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CharlmError

_BLOCK = 2**16


class UnknownCharacterError(CharlmError):
    """A text holds a character that the vocabulary does not."""

    def __init__(self, character: str, position: int, size: int) -> None:
        name = unicodedata.name(character, "no name")
        super().__init__(
            f"Character {character!r} (U+{ord(character):04X}, {name}) at position {position} "
            f"is not among the {size} characters of the vocabulary.\n"
            "Leave it out, or train on a text that holds it."
        )


class VocabularyFormatError(CharlmError):
    """A vocabulary file does not hold a vocabulary."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"Not a vocabulary: {problem}.\n"
            'Expected JSON of the form {"characters": ["a", "b"]}, sorted, each character once. '
            "`dvc repro prepare` writes it anew."
        )


@dataclass(frozen=True)
class Vocabulary:
    """Sorted distinct characters; the token of a character is its index.

    Raises VocabularyFormatError when they are not sorted and distinct.
    """

    characters: str

    def __post_init__(self) -> None:
        if list(self.characters) != sorted(set(self.characters)):
            raise VocabularyFormatError("its characters are not sorted and distinct")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The vocabulary of all characters of `text`."""
        return cls.from_texts([text])[0]

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> tuple[Self, int]:
        """The vocabulary of all characters of `texts`, which are read once, and how many characters they are in all."""
        seen, length = np.zeros(sys.maxunicode + 1, dtype=bool), 0
        for text in texts:
            seen[_code_points(text)] = True
            length += len(text)
        return cls("".join(map(chr, np.flatnonzero(seen)))), length

    @classmethod
    def load(cls, path: Any) -> Self:
        """That of `path`."""
        return cls.from_json(path.read_text(encoding="utf-8"))

    @classmethod
    def from_json(cls, content: str) -> Self:
        """What to_json wrote. Raises VocabularyFormatError for anything else."""
        try:
            characters = json.loads(content)["characters"]
        except (ValueError, TypeError, KeyError) as err:
            raise VocabularyFormatError(f"found {content[:40]!r}") from err
        if not isinstance(characters, list) or not all(isinstance(c, str) and len(c) == 1 for c in characters):
            raise VocabularyFormatError("its characters are not a list of single characters")
        if any(unicodedata.category(c) == "Cs" for c in characters):
            raise VocabularyFormatError("it holds half of a surrogate pair, which no text does")
        return cls("".join(characters))

    def to_json(self) -> str:
        """JSON with the characters in the order of their tokens."""
        return json.dumps({"characters": list(self.characters)}, ensure_ascii=False, indent=0) + "\n"

    def __len__(self) -> int:
        """The number of characters, V."""
        return len(self.characters)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned integer that holds every token."""
        return np.min_scalar_type(max(len(self) - 1, 0))

    @property
    def digest(self) -> str:
        """SHA-256 of the characters in order, in hexadecimal: two vocabularies give the same tokens if it is equal."""
        return hashlib.sha256(self.characters.encode()).hexdigest()

    @property
    def labels(self) -> list[str]:
        r"""A readable name of each character, for the axes of a picture: itself, `space`, or its escape (`\n`).

        No two are the same, for every name that is not the character itself is longer than one character.
        """
        return ["space" if c == " " else c if c.isprintable() else repr(c)[1:-1] for c in self.characters]

    @cached_property
    def _code_points(self) -> NDArray[np.uint32]:
        """(V,): the code point of each token."""
        return _code_points(self.characters)

    @cached_property
    def _tokens(self) -> NDArray[Any]:
        """(largest code point + 2,): the token of each code point, V for those that are absent.

        The last entry stands for all code points that are larger.
        """
        table = np.full(int(self._code_points.max(initial=0)) + 2, len(self), dtype=np.min_scalar_type(len(self)))
        table[self._code_points] = np.arange(len(self))
        return table

    @cached_property
    def _byte_tokens(self) -> bytes:
        """The first 256 entries of a table of tokens that are bytes, for `bytes.translate`."""
        return np.take(self._tokens, np.arange(256), mode="clip").tobytes()

    def encode(self, text: str) -> NDArray[Any]:
        """Tokens of `text`, shape (len(text),), of the smallest type that holds the vocabulary.

        Raises UnknownCharacterError for the first character that is not in the vocabulary.
        """
        tokens = np.empty(len(text), dtype=self.dtype)
        for start in range(0, len(text), _BLOCK):
            block = text[start : start + _BLOCK]
            found = self._look_up(block)
            if found.max() == len(self):
                position = int(np.argmax(found))
                raise UnknownCharacterError(block[position], start + position, len(self))
            tokens[start : start + _BLOCK] = found
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
