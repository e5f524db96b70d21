"""Several texts as one: found, fetched one by one, and joined in the order given with a blank line between.

What is fetched is kept as it was served, one file a source, and not fetched again because another text failed or the
list grew. Files of one's own are read where they are. At any time one text is in memory, not all.
`charlm.text.gutenberg` knows what a single source is, and `charlm.text.http` how to ask for it.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from filelock import FileLock, Timeout

from charlm.config import is_pattern
from charlm.errors import CharlmError
from charlm.files import atomic_write
from charlm.text import gutenberg

if TYPE_CHECKING:
    from rich.progress import Progress

_QUICK = 2.0
"""Seconds that pass without a bar, or a word."""


class ShelfError(CharlmError):
    """Some of several texts could not be had; names each with the reason."""

    def __init__(self, failures: Mapping[str, str], count: int, kept: Path) -> None:
        listed = "\n".join(f"  {source}: {found}" for source, found in failures.items())
        stays = f": what else was fetched is kept in {kept}, and not asked for a second time" if kept.is_dir() else ""
        super().__init__(
            f"{len(failures)} of the {count} texts of data.source did not come:\n{listed}\n"
            f"Mend these in data.source, or leave them out, and run again{stays}."
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


class MissingFilesError(CharlmError):
    """Files that data.source means are not in the copy of the project that an experiment runs in."""

    def __init__(self, root: Path, missing: Sequence[str]) -> None:
        super().__init__(
            f"data.source matches {len(missing)} more files in {root} than in the folder of this experiment: "
            f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}.\n"
            "DVC brings along what git tracks: `git add` them, or run without --temp and --queue."
        )


def expand(source: str | Sequence[str], folder: Path = Path()) -> str | list[str]:
    """The sources that a list, or a pattern of paths in `folder`, stands for; a single one as a text.

    In place of a pattern (`*`, `?`, `[]` and `**`, as in pathlib) stand the files that match, sorted, but none that is
    hidden or lies in a hidden folder. One that no file matches stays, for the file of that name that is not there.
    Raises SourceError for what looks like a pattern and is none.
    """
    entries = [source] if isinstance(source, str) else source
    found = [path for entry in entries for path in _matches(entry, folder) or [entry]]
    return found[0] if len(found) == 1 else found


def _matches(source: str, folder: Path) -> list[str]:
    pattern = Path(source)
    try:
        if not is_pattern(source) or "://" in source or (folder / pattern).is_file():
            return []
        if pattern.anchor:
            found = list(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
        else:
            found = [path.relative_to(folder) for path in folder.glob(source) if path.is_file()]
    except (ValueError, OSError) as err:
        raise gutenberg.SourceError(source, f"it is no pattern: {err}") from err
    return sorted(str(path) for path in found if (folder / path).is_file() and not _is_hidden(path, pattern))


def _is_hidden(path: Path, pattern: Path) -> bool:
    return any(part.startswith(".") and part not in pattern.parts for part in path.parts)


def require_all(source: str | Sequence[str], root: Path) -> None:
    """Raise MissingFilesError when patterns match files of the project in `root` that the current folder has not.

    DVC runs an experiment of `--temp` or the queue in another folder than the project's.
    """
    here, there = ([found] if isinstance(found, str) else found for found in (expand(source), expand(source, root)))
    if missing := sorted(set(there) - set(here)):
        raise MissingFilesError(root, missing)


def write(
    to: Path,
    sources: Sequence[str],
    *,
    serve: Callable[[str], tuple[str, bytes]],
    kept: Path,
    sha256: str | None = None,
) -> None:
    """Write the texts of `sources` to the file `to`, whole or not at all.

    `serve` gives the address that a source came from and the bytes served, and `kept` is the folder in which they stay.
    `sha256` is the digest that the whole must have; `None` accepts any.

    Raises ShelfError, after all were tried, when some did not come, and ShelfDigestError.
    """
    with _alone(kept) if any(map(_is_fetched, sources)) else nullcontext(), atomic_write(to) as part:
        found, characters = join(_texts(sources, serve, kept), part)
        if sha256 not in (None, found):
            raise ShelfDigestError(found, str(sha256), characters, kept)


def _is_fetched(source: str) -> bool:
    with suppress(gutenberg.BookError):  # told in its turn, with all others
        return not gutenberg.is_path(source)
    return False


@contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """One process at a time fetches: the next finds in `kept` what it would have asked the same host for."""
    kept.mkdir(parents=True, exist_ok=True)
    lock = FileLock(kept / ".lock")
    try:
        lock.acquire(timeout=_QUICK)
    except Timeout:
        click.echo(f"Another process fetches texts to {kept}; waiting until it is done.", err=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def join(texts: Iterable[str], to: Path) -> tuple[str, int]:
    """Write `texts` to the file `to`, a line end between each two; SHA-256 and number of characters of the whole."""
    digest, characters = hashlib.sha256(), 0
    with to.open("wb") as file:
        for text in texts:
            part = f"\n{text}" if characters else text
            served = part.encode()
            digest.update(served)
            file.write(served)
            characters += len(part)
    return digest.hexdigest(), characters


def _texts(sources: Sequence[str], serve: Callable[[str], tuple[str, bytes]], kept: Path) -> Iterator[str]:
    progress, failures = _progress(), {}

    def served(source: str) -> tuple[str, bytes]:
        progress.stop()  # a fetch has a bar and words of its own
        return serve(source)

    for source in _shown(sources, progress):
        try:
            text = _text(source, served, kept)
        except gutenberg.BookError as err:
            failures[source] = err.found
        else:
            yield text
    if failures:
        raise ShelfError(failures, len(set(sources)), kept)


def _text(source: str, serve: Callable[[str], tuple[str, bytes]], kept: Path) -> str:
    """The text of `source`, whose bytes are `kept` once they were fetched and found to hold one."""
    copy = kept / f"{hashlib.sha256(source.encode()).hexdigest()}.txt"
    from_served = partial(gutenberg.from_served, from_gutenberg=gutenberg.is_gutenberg(source), sha256=None)
    if copy.is_file():
        with suppress(gutenberg.BookError):  # damaged since: it is fetched again
            return from_served(copy.read_bytes(), name=source)
    name, served = serve(source)
    text = from_served(served, name=name)
    if "://" in name:
        with atomic_write(copy) as temporary:
            temporary.write_bytes(served)
    return text


def _progress() -> "Progress":
    """A bar over the texts on stderr, not yet shown, and never if that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _shown(sources: Sequence[str], progress: "Progress") -> Iterator[str]:
    """Each of `sources`, counted by `progress` if they take more than a moment."""
    bar, begun = progress.add_task("texts", total=len(sources)), time.monotonic()
    try:
        for done, source in enumerate(sources):
            progress.update(bar, completed=done, description=source)
            if time.monotonic() - begun > _QUICK:
                progress.start()
            yield source
    finally:
        progress.stop()
