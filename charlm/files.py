"""Files that appear complete or not at all, their digests, and texts of any size read block by block."""

import codecs
import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 2**16


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    When the block raises, the temporary file is removed and whatever stood at `path` stays as it was.
    The folder is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, line ends as they are, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, content: object) -> None:
    """Write `content` to `path` as JSON, indented, complete or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_text(path: Path, size: int = BLOCK) -> Iterator[str]:
    """The text of `path`, UTF-8, line ends as they are: a piece for every `size` bytes of it, the last one shorter."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while block := file.read(size):
            yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def sha256(path: Path) -> str:
    """The SHA-256 digest of the bytes of `path`, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
