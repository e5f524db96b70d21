"""Several texts as one: found, fetched one by one, and joined in the order given with a blank line between.

What is fetched is kept as it was served, one file a source, and not fetched again because another text failed or the
list grew. Files of one's own are read where they are. At any time one text is in memory, not all.
`charlm.gutenberg` knows what a single source is, and `charlm.fetch` how to ask for it.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from charlm import gutenberg
from charlm.errors import CharlmError
from charlm.files import whole

_WILD = re.compile(r"[*?\[]")
_QUICK = 2.0
"""Seconds that pass without a bar."""


class ShelfError(CharlmError):
    """Some of several texts could not be had; names each with the reason."""

    def __init__(self, failures: Mapping[str, str], count: int, kept: Path) -> None:
        listed = "\n".join(f"  {source}: {found}" for source, found in failures.items())
        super().__init__(
            f"{len(failures)} of the {count} texts of data.source did not come:\n{listed}\n"
            f"Mend these in data.source, or leave them out, and run again: what else was fetched is kept in {kept}, "
            "and not asked for a second time."
        )


class ShelfDigestError(CharlmError):
    """The texts together are not those that `data.sha256` pins."""

    def __init__(self, found: str, expected: str, characters: int, kept: Path) -> None:
        super().__init__(
            "The texts of data.source together are others than the pinned ones.\n"
            f"  found:    {found} ({characters:,} characters)\n"
            f"  expected: {expected} (data.sha256)\n"
            "If you want these texts, set data.sha256 to the digest found, or to null to accept any.\n"
            f"If not, look at data.source and its order; to have every text fetched anew, delete {kept}."
        )


def expand(source: str | Sequence[str]) -> str | list[str]:
    """The sources that a list, or a pattern of paths, stands for; `source` itself when it is a single one.

    In place of a pattern (`*`, `?`, `[]` and `**`, as in pathlib) stand the files that match, sorted, but no hidden
    ones. One that no file matches stays, for the file of that name that is not there.
    """
    if isinstance(source, str):
        return _matches(source) or source
    return [path for entry in source for path in _matches(entry) or [entry]]


def _matches(source: str) -> list[str]:
    if not _WILD.search(source) or "://" in source or Path(source).is_file():
        return []
    pattern = Path(source)
    found = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
    return sorted(str(path) for path in found if path.is_file() and not path.name.startswith("."))


def write(
    to: Path,
    sources: Sequence[str],
    *,
    serve: Callable[[str], tuple[str, bytes]],
    kept: Path,
    sha256: str | None = None,
) -> None:
    """Write the texts of `sources` to the file `to`.

    `serve` gives the address that a source came from and the bytes served, and `kept` is the folder in which they stay.
    `sha256` is the digest that the whole must have; `None` accepts any.

    Raises ShelfError, after all were tried, when some did not come, and ShelfDigestError.
    """
    found, characters = join(_texts(sources, serve, kept), to)
    if sha256 not in (None, found):
        raise ShelfDigestError(found, str(sha256), characters, kept)


def join(texts: Iterable[str], to: Path) -> tuple[str, int]:
    """Write `texts` to the file `to`, a line end between each two; SHA-256 and number of characters of the whole."""
    digest, characters = hashlib.sha256(), 0
    with to.open("wb") as file:
        for text in texts:
            part = f"\n{text}" if characters else text
            digest.update(part.encode())
            file.write(part.encode())
            characters += len(part)
    return digest.hexdigest(), characters


def _texts(sources: Sequence[str], serve: Callable[[str], tuple[str, bytes]], kept: Path) -> Iterator[str]:
    failures = {}
    for source in _shown(sources):
        try:
            text = _text(source, serve, kept)
        except gutenberg.BookError as err:
            failures[source] = err.found
        else:
            yield text
    if failures:
        raise ShelfError(failures, len(sources), kept)


def _text(source: str, serve: Callable[[str], tuple[str, bytes]], kept: Path) -> str:
    """The text of `source`, whose bytes are `kept` once they were fetched and found to hold one."""
    copy = kept / f"{hashlib.sha256(source.encode()).hexdigest()}.txt"
    name, served = (source, copy.read_bytes()) if copy.is_file() else serve(source)
    text = gutenberg.from_served(served, name=name, from_gutenberg=gutenberg.is_gutenberg(source), sha256=None)
    if "://" in name and not copy.is_file():
        with whole(copy) as temporary:
            temporary.write_bytes(served)
    return text


def _shown(sources: Sequence[str]) -> Iterator[str]:
    """Each of `sources`, counted by a bar on stderr if that is a terminal and it takes more than a moment."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar, begun = progress.add_task("texts", total=len(sources)), time.monotonic()
    try:
        for done, source in enumerate(sources):
            progress.update(bar, completed=done, description=source)
            if time.monotonic() - begun > _QUICK:
                progress.start()
            yield source
    finally:
        progress.stop()
