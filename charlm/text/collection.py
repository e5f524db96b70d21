"""From `data.source` to one file: every text is found, fetched if need be, decoded, stripped and joined.

Texts are in the order given, with a blank line between. What is fetched is kept as it came, one file for each source,
and is not fetched again when another text fails or the list grows. Local files are read where they are.
Texts are read block by block, except those small enough to be searched for Project Gutenberg's boilerplate.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
from filelock import FileLock, Timeout

from charlm.config import is_pattern, short_source
from charlm.errors import CharlmError, RefusedError, indented
from charlm.files import BLOCK, atomic_write, read_text
from charlm.text import gutenberg
from charlm.text.boilerplate import has_marker, strip_boilerplate
from charlm.text.encoding import Encoding, decide
from charlm.text.http import Client, charset_of

if TYPE_CHECKING:
    from rich.progress import Progress

MAX_GUTENBERG_SIZE = 64 * 2**20
"""Bytes: larger files are not searched for boilerplate, because no book of Project Gutenberg is over 50 MB."""

_QUICK = 2.0
"""Seconds before a bar or a message about waiting appears."""


def expand(sources: Sequence[str], folder: Path = Path()) -> list[str]:
    """`sources` with each pattern of paths in `folder` replaced by the files that match, sorted.

    A pattern is one of pathlib's (`*`, `?`, `[]`, `**`); it matches no hidden file and none in a hidden folder. One
    that matches no file stays, and is then reported as a file that is not there. Raises CharlmError for an invalid one.
    """
    return [path for source in sources for path in _matches(source, folder) or [source]]


def _matches(source: str, folder: Path) -> list[str]:
    pattern = Path(source)
    try:
        if not is_pattern(source) or gutenberg.is_url(source) or (folder / pattern).is_file():
            return []
        if pattern.anchor:
            found = list(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
        else:
            found = [path.relative_to(folder) for path in folder.glob(source) if path.is_file()]
    except (ValueError, OSError) as err:
        raise CharlmError(
            f"data.source contains {source!r}, which is not a valid pattern: {err}.",
            "Expected `*`, `?` or `[]` in the path of a file, or `**` in place of folders.",
        ) from err
    hidden = (any(name.startswith(".") and name not in pattern.parts for name in path.parts) for path in found)
    return sorted(str(path) for path, hide in zip(found, hidden, strict=True) if (folder / path).is_file() and not hide)


def require_all(sources: Sequence[str], root: Path) -> None:
    """Raise CharlmError if `sources` mean files of the project in `root` that are not in the current folder.

    `dvc exp run --temp` and the queue run in a folder of their own, with a copy of what git tracks.
    """
    if missing := [path for path in expand(sources, root) if os.path.isfile(root / path) > os.path.isfile(path)]:  # noqa: PTH113 no path is too long for it
        raise CharlmError(
            f"The folder of this experiment lacks {len(missing)} files of data.source that are in {root}: "
            f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}.",
            fix="DVC copies only what git tracks: `git add` them, or run without --temp and --queue.",
        )


def write(
    to: Path,
    sources: Sequence[str],
    *,
    kept: Path,
    sha256: str | None = None,
    encoding: str | None = None,
    mirror: str | None = None,
    sites: Sequence[str] = gutenberg.SITES,
    client: Client | None = None,
) -> list[Encoding]:
    """Write the texts of `sources` to the file `to`, completely or not at all; return the encoding that each had.

    `kept` is the folder for what is fetched. `sha256` is the digest that the joined text must have; `None` accepts any.
    `encoding` is that of the texts, if a person names it. `mirror` and `sites` are where the books of Project Gutenberg
    are looked for.

    Raises CharlmError if texts are missing, with all of them in one message, or if the digest differs.
    """
    client, progress = client or Client(), _progress()
    failures: dict[str, str] = {}
    encodings: list[Encoding] = []
    fetches = not all(map(gutenberg.is_path, sources))

    def fetch(url: str, to: Path) -> None:
        progress.stop()  # a download has a bar of its own
        client.download(url, to)

    places = partial(gutenberg.addresses, mirror=mirror, sites=sites)
    finder = _Finder(places, fetch, kept, encoding, pinned=sha256 if len(sources) == 1 else None)
    with _only_process(kept) if fetches else nullcontext(), atomic_write(to) as temporary, temporary.open("wb") as file:
        joined = _JoinedText(file)
        for source in _shown(sources, progress):
            try:
                found, text = finder.find(source)
                joined.add(text)
                encodings.append(found)
            except RefusedError as err:
                failures[source] = err.found
        if failures:
            raise _no_text(sources, failures, kept)
        if sha256 not in (None, joined.digest.hexdigest()):
            raise _other_text(sources, joined, str(sha256), kept)
    return encodings


def _no_text(sources: Sequence[str], failures: Mapping[str, str], kept: Path) -> CharlmError:
    count = len(set(sources))
    ways = ["use the tale that comes with charlm:\n    dvc exp run -S data.source=tests/tale.txt -S data.sha256=null"]
    if count == 1:
        own = "use a file with the text alone (and -S data.sha256=null if it is not the pinned text):"
        ways.insert(0, f"{own}\n    dvc exp run -S data.source=<path>")
    else:
        stays = f"what was fetched is kept in {kept} and not fetched again"
        ways.insert(0, f"fix these sources, or remove them ({stays}):\n    dvc repro")
    if any(map(gutenberg.book_number, failures)):
        mirror = "use a mirror, a base URL or a folder with cache/epub/<number>/pg<number>.txt in it:"
        ways.insert(0, f"{mirror}\n    CHARLM_GUTENBERG_MIRROR=<URL or folder> dvc repro")
    which = f"data.source {sources[0]}" if count == 1 else f"{len(failures)} of the {count} sources in data.source"
    return CharlmError(
        f"No text came for {which}:{indented(failures.values())}",
        "Expected a Project Gutenberg page (https://www.gutenberg.org/ebooks/22566, or gutenberg:22566), the http(s) "
        "address of a text, the path of a text file, a pattern of such paths (books/*.txt), or a list of these.",
        f"Ways out:{indented(ways)}",
    )


def _other_text(sources: Sequence[str], joined: "_JoinedText", expected: str, kept: Path) -> CharlmError:
    again = f" To fetch every text again, delete {kept}." if kept.is_dir() else ""
    return CharlmError(
        f"data.source ({short_source(sources)}) does not give the pinned text.\n"
        f"  found:    {joined.digest.hexdigest()} ({joined.characters:,} characters)",
        f"  expected: {expected} (data.sha256)",
        "If you want this text, set data.sha256 to the digest found, or to null to accept any text.\n"
        f"If not, check the sources and their order.{again}",
    )


class _JoinedText:
    """The texts in one file, with its digest and length."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest, self.characters = hashlib.sha256(), 0

    def add(self, text: Iterable[str]) -> None:
        """Write `text`, which comes in blocks, after a blank line unless it is the first."""
        for block in chain("\n" if self.characters else "", text):
            encoded = block.encode()
            self._file.write(encoded)
            self.digest.update(encoded)
            self.characters += len(block)


@dataclass(frozen=True)
class _Finder:
    """Finds texts, in `places` of a source; `fetch` writes that of an address to a file, of which a copy is `kept`."""

    places: Callable[[str], Sequence[str]]
    fetch: Callable[[str, Path], None]
    kept: Path
    encoding: str | None
    pinned: str | None

    def find(self, source: str) -> tuple[Encoding, Iterable[str]]:
        """The text of `source` from the file it was fetched to before, else from the first of its places with one.

        Raises RefusedError with a line for each of the places.
        """
        places = self.places(source)
        copy = self.kept / f"{hashlib.sha256(os.fsencode(source)).hexdigest()}.txt"
        if not gutenberg.is_path(source) and copy.is_file():
            with suppress(RefusedError):  # damaged since, or never a text: fetch it again
                return self._read(source, copy, charset_of(copy))
        failures = []
        for place in places:
            try:
                if gutenberg.is_url(place):
                    self.fetch(place, copy)
                    return self._read(source, copy, charset_of(copy))
                return self._read(source, _existing(place))
            except RefusedError as err:
                failures.append(f"{place}: {err.found}")
        raise RefusedError("\n  ".join(failures))

    def _read(self, source: str, path: Path, declared: str | None = None) -> tuple[Encoding, Iterable[str]]:
        found = decide(path, wanted=self.encoding, declared=declared)
        theirs = gutenberg.is_gutenberg(source)
        return found, read_source(path, found.codec, from_gutenberg=theirs, pinned=self.pinned)


def _existing(place: str) -> Path:
    path = Path(place)
    try:
        path.open("rb").close()
    except OSError as err:
        looked = "" if path.is_absolute() else f", in the folder {Path.cwd()}"
        raise RefusedError(f"{err.strerror}{looked}") from err
    return path


def read_source(
    path: Path, encoding: str, *, from_gutenberg: bool, pinned: str | None = None, size: int = BLOCK
) -> Iterable[str]:
    """The text in the file `path`, in blocks: line ends LF, no boilerplate, one final newline, no end-of-file mark.

    All of it can be decoded by `encoding`, from `size` bytes at a time. A file that is `from_gutenberg` but has none of
    its markers must have the digest `pinned`.

    Raises RefusedError if it contains no text, or no complete Gutenberg book.
    """
    decoded = read_text(path, size, encoding=encoding, universal_newlines=True)
    blocks = _with_one_final_newline(decoded)
    if path.stat().st_size > MAX_GUTENBERG_SIZE:
        if from_gutenberg:
            raise RefusedError(f"it has more than {MAX_GUTENBERG_SIZE:,} bytes, which no book of Project Gutenberg has")
        return blocks
    text = "".join(blocks)
    marked = has_marker(text)
    if marked or from_gutenberg:
        text = strip_boilerplate(text)
    if from_gutenberg and not marked and (found := hashlib.sha256(text.encode()).hexdigest()) != pinned:
        raise RefusedError(f"it has no *** START OF or *** END OF line, and its digest is not the pinned one: {found}")
    return [text]


def _with_one_final_newline(blocks: Iterable[str]) -> Iterator[str]:
    r"""The text with one newline at its end, and without `\x1a` there: DOS ended files with it."""
    blank, newlines, mark = True, 0, ""
    for block in blocks:
        text = block.rstrip("\n\x1a")
        if text:
            yield from chain(repeat("\n", newlines), [mark, text])
            newlines, mark = 0, ""
        end = block[len(text) :]
        if not mark:
            mark = end.lstrip("\n")
            newlines += len(end) - len(mark)
        else:
            mark += end
        blank = blank and not text.strip()
    if blank:
        raise RefusedError("it is empty")
    yield "\n"


@contextmanager
def _only_process(kept: Path) -> Iterator[None]:
    """Let one process fetch at a time: the next one finds in `kept` what it would have asked the same host for."""
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


def _progress() -> "Progress":
    """A bar over the texts on stderr, not yet visible, and never if that is no terminal."""
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
