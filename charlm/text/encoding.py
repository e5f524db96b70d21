"""The encoding of a text: taken from what names it, else from its bytes if they leave one answer, else refused.

In this order: a byte order mark, `data.encoding`, the charset of Content-Type, strict UTF-8, the line "Character set
encoding" of a Project Gutenberg header, and what charset-normalizer (https://charset-normalizer.readthedocs.io) finds.
It ranks readings, and its first is often wrong among the Latin ones, so it counts only where no other reading is as
clean and half as like a language. A text that is UTF-8 but for a few bytes is damaged, and not read as anything else.
"""

import codecs
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from charlm.config import is_encoding
from charlm.errors import RefusedError
from charlm.files import BLOCK

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is the beginning of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MEANT = {
    "ascii": None,
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "utf-16": "utf-16-le",
    "utf-32": "utf-32-le",
}
"""What a label means in practice (https://encoding.spec.whatwg.org); ASCII says nothing of the bytes above it."""
_COMMON = ("cp1252", "cp866", "euc_jp")
"""Of several encodings in which a text is the same, the ones that texts are in."""
_HEADER = 2**14
"""Bytes in which a Project Gutenberg file names its encoding."""
_NAMED = re.compile(rb"^[ \t]*Character set encoding:[ \t]*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_ENOUGH = 20
"""Occurrences of a byte that are evidence enough."""
_MESS, _CLEARLY = 0.05, 0.02
"""charset-normalizer's measure of mess: the largest of a text, and how much more another reading must have."""


class Encoding(NamedTuple):
    """An encoding, and whether it was found by the bytes alone."""

    codec: str
    """Python's name of it."""
    detected: bool = False

    def __str__(self) -> str:
        name = codecs.lookup(self.codec).name.removesuffix("-sig")
        return f"{name} (detected)" if self.detected else name


def decide(path: Path, *, wanted: str | None = None, declared: str | None = None, size: int = BLOCK) -> Encoding:
    """The encoding of the text in the file `path`, in which all of it can be decoded.

    `wanted` is what `data.encoding` names, `declared` the charset of Content-Type. The file is read `size` bytes at a
    time. Raises RefusedError with the first byte that the encoding does not have, or if none is certain.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER)
    marked = next((codec for mark, codec in _MARKS.items() if head.startswith(mark)), None)
    for codec, who in ((marked, "its byte order mark"), (wanted, "data.encoding"), (meant(declared), "Content-Type")):
        if codec:
            _require(path, codec, f"which {who} names", size)
            if who == "Content-Type":
                _require_other_than_utf_8(path, codec, size)
            return Encoding(codec)
    fault = _fault(path, "utf-8", size)
    if fault is None:
        return Encoding("utf-8")
    _require_damage(path, fault)
    is_gutenbergs = b"Project Gutenberg" in head
    named = _NAMED.search(head) if is_gutenbergs else None
    if named and (codec := meant(named[1].decode("latin-1"))):
        _require(path, codec, "which its header names", size)
        return Encoding(codec)
    return Encoding(_detected(path, fault, usual="cp1252" if is_gutenbergs else None), detected=True)


def meant(label: str | None) -> str | None:
    """Python's codec for `label`, or for the first word in it that names one; None if there is none."""
    for name in [label, *re.findall(r"[\w.:-]+", label)] if label else []:
        if is_encoding(name):
            found = codecs.lookup(name).name
            return _MEANT.get(found, found)
    return None


def _fault(path: Path, codec: str, size: int) -> tuple[int, int] | None:
    """Offset and value of the first byte that `codec` does not have there; RefusedError for a NUL."""
    decoder, wide = codecs.getincrementaldecoder(codec)(), codec.startswith(("utf-16", "utf-32"))
    with path.open("rb") as file:
        try:
            while block := file.read(size):
                if (not wide and b"\0" in block) or "\0" in decoder.decode(block):
                    position = file.tell() - len(block) + block.find(b"\0")
                    raise RefusedError(
                        f"byte {position:,} is NUL, as in an archive, a picture or UTF-16 without a mark"
                    )
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as err:
            return file.tell() - len(err.object) + err.start, err.object[err.start]
        except UnicodeError as err:  # of a codec that is not for whole texts
            raise RefusedError(f"it is not {codec}: {err}") from err
    return None


def _shown(fault: tuple[int, int]) -> str:
    return f"byte {fault[0]:,} ({fault[1]:#04x})"


def _require(path: Path, codec: str, who: str, size: int) -> None:
    """Raise RefusedError if not all of the text can be decoded by `codec`."""
    if fault := _fault(path, codec, size):
        raise RefusedError(f"{_shown(fault)} is not {Encoding(codec)}, {who}")


def _require_other_than_utf_8(path: Path, codec: str, size: int) -> None:
    """Raise RefusedError if the text is valid UTF-8 beyond ASCII, which no text in another encoding is by chance."""
    if codecs.lookup(codec).name.startswith("utf") or _fault(path, "ascii", size) is None:
        return
    if _fault(path, "utf-8", size) is None:
        raise RefusedError(
            f"Content-Type names {Encoding(codec)}, but the text is valid UTF-8: set data.encoding to utf-8 or to "
            f"{Encoding(codec)}"
        )


def _require_damage(path: Path, fault: tuple[int, int]) -> None:
    """Raise RefusedError if most of what is not ASCII is valid UTF-8; `fault` is the first byte that is not."""
    decoder, characters, damaged = codecs.getincrementaldecoder("utf-8")("replace"), 0, 0
    with path.open("rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            text = decoder.decode(block)
            characters += len(text) - len(text.encode("ascii", "ignore"))
            damaged += text.count("\ufffd")
    damaged += len(decoder.decode(b"", final=True))
    if damaged <= characters - damaged:
        raise RefusedError(
            f"{_shown(fault)} is not UTF-8, but the rest is: the text is damaged or cut short. If it is not meant as "
            "UTF-8, set data.encoding"
        )


def _evidence(path: Path) -> bytes:
    """Lines of the text that are not ASCII, so many that every byte that it has is among them a few times."""
    enough, seen, lines = bytes(range(128)), Counter[int](), []
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            block += file.readline(BLOCK)  # to the end of a line, for a character must not be cut
            for line in block.split(b"\n") if block.translate(None, enough) else []:
                if new := line.translate(None, enough):
                    lines.append(line)
                    seen.update(new)
                    enough = bytes(range(128)) + bytes(byte for byte, times in seen.items() if times >= _ENOUGH)
    return b"\n".join(lines)


def _detected(path: Path, fault: tuple[int, int], usual: str | None) -> str:
    """The one encoding in which the text reads cleanly; of several the `usual` one, else RefusedError names them."""
    from charset_normalizer import from_bytes

    evidence = _evidence(path)
    unicode = ["utf_7", "utf_8", "utf_16", "utf_32"]
    found = list(from_bytes(evidence, steps=len(evidence) // 512 + 1, cp_exclusion=unicode))
    least = min((reading.chaos for reading in found), default=1.0)
    found = [reading for reading in found if reading.chaos < least + _CLEARLY]
    most = max((reading.coherence for reading in found), default=0.0)
    clean = [reading.could_be_from_charset for reading in found if reading.coherence >= most / 2]
    if least <= _MESS:
        if any(usual in names for names in clean):
            return str(usual)
        if len(clean) == 1:
            return next((name for name in _COMMON if name in clean[0]), clean[0][0])
    might = f" (it might be {', '.join(names[0] for names in clean[:4])})" if clean else ""
    raise RefusedError(f"{_shown(fault)} is not UTF-8, and no other encoding is certain{might}: set data.encoding")
