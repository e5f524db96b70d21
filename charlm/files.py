"""Write a file completely or not at all, digest it, and read a text of any size block by block."""

import codecs
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BLOCK = 2**16


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends without an error.

    If the block raises, the temporary file is removed and `path` stays as it was. The folder is created if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, with its line ends unchanged, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, content: object) -> None:
    """Write `content` to `path` as indented JSON, completely or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_text(
    path: Path, size: int = BLOCK, *, encoding: str = "utf-8", universal_newlines: bool = False
) -> Iterator[str]:
    """The text of `path`, decoded from `size` bytes at a time; CRLF and CR become LF with `universal_newlines`."""
    decoder: Any = codecs.getincrementaldecoder(encoding)()
    if universal_newlines:
        decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
    with path.open("rb") as file:
        while block := file.read(size):
            yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def sha256(path: Path) -> str:
    """The SHA-256 digest of the bytes of `path`, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
