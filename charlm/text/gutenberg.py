"""Turn a Project Gutenberg page, any address of a text or a path into the book alone.

Served files differ from month to month in header, line ends and byte order mark while the book does not, so
everything around the book goes before anything is compared or kept. It reads plain text: no HTML, no EPUB.
The lines to look for are those of c-w/gutenberg (https://github.com/c-w/gutenberg) and of old and new files;
unlike there, a file in which they do not pair is an error, never a guess.
"""

import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

from charlm.errors import CharlmError
from charlm.text import http as fetch

SITES = ("https://www.gutenberg.org", "https://gutenberg.pglaf.org")

_PAGE = re.compile(
    r"https?://(?:www\.)?gutenberg\.org/ebooks/([1-9][0-9]*)(?:\.txt(?:\.utf-8)?)?/?(?:[?#].*)?",
    re.IGNORECASE,
)
_HOST = re.compile(r"(?:.+\.)?(?:gutenberg|pglaf)\.org")

_FLAGS = re.IGNORECASE | re.MULTILINE
_SAME_PARAGRAPH = r"(?:.|\n(?![ \t]*$))*?"
_REST_OF_PARAGRAPH = r".*(?:\n[ \t]*[^ \t\n].*)*+"
_EDGE = r"^[ \t]*\*{3,}[ \t]*%s\s+OF\s+(?:TH(?:E|IS)\s+)?(?:COPYRIGHTED\s+)?PROJECT\s+GUTENBERG\b"
_MARKER = re.compile(_EDGE % "(?:START|END)", _FLAGS)
# The closing stars stand at the end of a line: a title may hold stars itself ("Lettres de M*** à N***").
_START = re.compile(_EDGE % "START" + _SAME_PARAGRAPH + r"\*{3}[ \t]*$", _FLAGS)
_END = re.compile(_EDGE % "END" + _SAME_PARAGRAPH + r"\*{3}[ \t]*$", _FLAGS)
_SMALL_PRINT = re.compile(
    r"^[ \t]*\*+[ \t]*END[ \t]*\**[ \t]*(?:OF )?THE SMALL PRINT\b"
    rf"(?:{_SAME_PARAGRAPH}\*\s*END\s*\*+[ \t]*|.*)$",
    _FLAGS,
)
# Old headers end within 20,000 characters; a small print further down belongs to a book inside an anthology.
_SMALL_PRINT_WITHIN = 30_000
_SIGN_OFF = re.compile(
    r"(?:^[^\w\n]*(?:this is the )?end of (?:the |this )?project gutenberg" + _REST_OF_PARAGRAPH + r"\s*)+\Z",
    _FLAGS,
)
_CREDITS = re.compile(
    r"(?:\s*^[ \t*\[(_]*(?:"
    r"(?:this |the )?(?:project gutenberg )?(?:e-?text |e-?book )?(?:was |is )?"
    r"(?:produced|prepared|transcribed|scanned|digiti[sz]ed|proofed|proofread)"
    r"(?:,? (?:and )?\w+)? (?:by|from)\b"
    r"|note: project gutenberg also has|images of the original pages are available"
    r")" + _REST_OF_PARAGRAPH + ")+",
    _FLAGS,
)
_TELLTALE = re.compile(
    r"project gutenberg|gutenberg\.(?:org|net)\b|small print!|distributed proofread|pgdp\.net", re.IGNORECASE
)
_TELLTALE_LINES = 10


class BookError(CharlmError):
    """A source gave no book; `found` is the reason alone, for a list of several."""

    def __init__(self, message: str, found: str) -> None:
        super().__init__(message)
        self.found = found


class SourceError(BookError):
    """`data.source` is nothing that a text can be had from."""

    def __init__(self, source: str, found: str) -> None:
        super().__init__(
            f"data.source is {source!r}: {found}.\nExpected a Project Gutenberg page "
            "(https://www.gutenberg.org/ebooks/22566, or gutenberg:22566), the http(s) address of a text, "
            "the path of a text file, a pattern of such paths (books/*.txt), or a list of these.",
            found,
        )


class RouteError(BookError):
    """No address gave a text; lists each with what it gave, then the ways out."""

    def __init__(self, source: str, failures: Mapping[str, str]) -> None:
        listed = "\n".join(f"  {address}: {found}" for address, found in failures.items())
        mirror = (
            "  a mirror, a base URL or a folder that holds cache/epub/<number>/pg<number>.txt:\n"
            "    CHARLM_GUTENBERG_MIRROR=<URL or folder> dvc repro\n"
        )
        super().__init__(
            f"No text came for data.source {source}:\n{listed}\n"
            f"Ways out:\n{mirror if book_number(source) else ''}"
            "  a file that you have (with -S data.sha256=null if it is another text than the pinned one):\n"
            "    dvc exp run -S data.source=<path>\n"
            "  the tale that comes with charlm:\n"
            "    dvc exp run -S data.source=tests/tale.txt -S data.sha256=null",
            "; ".join(found if address == source else f"{address}: {found}" for address, found in failures.items()),
        )


class TextError(BookError):
    """What came is not a text."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__(
            f"{name} is no text: {found}. Expected UTF-8 or Windows-1252.\n"
            "Save it as plain UTF-8 text and set data.source to its path, or name another source.",
            found,
        )


class BoilerplateError(BookError):
    """Where the book begins and ends in a Project Gutenberg file could not be told."""

    def __init__(self, name: str, found: str) -> None:
        super().__init__(
            f"{name}: {found}.\nExpected a Project Gutenberg file, with the book between its "
            "*** START OF and *** END OF lines.\n"
            "Save the text of the book alone to a file and set data.source to its path.",
            found,
        )


class DigestError(CharlmError):
    """The text is not the one that `data.sha256` pins."""

    def __init__(self, name: str, found: str, expected: str, characters: int) -> None:
        super().__init__(
            f"{name} gave another text than the pinned one.\n"
            f"  found:    {found} ({characters:,} characters)\n"
            f"  expected: {expected} (data.sha256)\n"
            "If you want this text, set data.sha256 to the digest found, or to null to accept any text.\n"
            "If not, take the right one: from another copy, or another data.source."
        )


def book(
    source: str,
    *,
    mirror: str | None = None,
    sha256: str | None = None,
    sites: Sequence[str] = SITES,
    limits: fetch.Limits = fetch.LIMITS,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """The text of the book that `source` names: LF line ends, no boilerplate, one final newline.

    `mirror`, a base URL or a folder laid out as Project Gutenberg is, is asked before `sites`.
    `sha256` is the digest that the text must have as UTF-8; `None` accepts any. `sleep` is called to wait
    before an address is asked again.

    Raises SourceError when `source` cannot be used, RouteError when no address gave a text, and TextError,
    BoilerplateError or DigestError when what came is not the book.
    """
    name, served = serve(source, mirror=mirror, sites=sites, limits=limits, sleep=sleep)
    return from_served(served, name=name, from_gutenberg=is_gutenberg(source), sha256=sha256)


def serve(
    source: str,
    *,
    mirror: str | None = None,
    sites: Sequence[str] = SITES,
    limits: fetch.Limits = fetch.LIMITS,
    sleep: Callable[[float], object] = time.sleep,
    turn: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> tuple[str, bytes]:
    """The path or address that gave `source`, and the bytes that it served; arguments as for `book`.

    Each address is asked inside of `turn(address)`, which can make it wait. Raises SourceError or RouteError.
    """
    if is_path(source):
        return source, _read(source)
    failures = {}
    for place in addresses(source, mirror, sites):
        try:
            return place, _served(place, limits, sleep, turn)
        except fetch.RefusedError as refused:
            failures[place] = refused.message
    raise RouteError(source, failures)


def book_number(source: str) -> int | None:
    """The number of the Project Gutenberg book that `source` names; `None` for any other source.

    Raises SourceError when what follows `gutenberg:` is no number.
    """
    page = _PAGE.fullmatch(source)
    if page:
        return int(page[1])
    if not source.lower().startswith("gutenberg:"):
        return None
    number = source.partition(":")[2]
    if not re.fullmatch("[1-9][0-9]*", number):
        raise SourceError(source, f"{number!r} is not the number of a book")
    return int(number)


def is_gutenberg(source: str) -> bool:
    """Whether `source` is a Project Gutenberg book or an address on one of its hosts."""
    return book_number(source) is not None or bool(_is_url(source) and _HOST.fullmatch(urlsplit(source).hostname or ""))


def addresses(source: str, mirror: str | None = None, sites: Sequence[str] = SITES) -> list[str]:
    """Where to look for `source`, in order: URLs, and paths in a `mirror` that is a folder.

    Raises SourceError when `source` can be none of the kinds there are; no file is looked for.
    """
    number = book_number(source)
    if number is None:
        return [_checked(source)]
    bases = [mirror, *sites] if mirror else sites
    return [f"{base.rstrip('/')}/cache/epub/{number}/pg{number}.txt" for base in bases]


def _checked(source: str) -> str:
    if not source.strip():
        raise SourceError(source, "it is empty")
    if source.startswith("~"):
        raise SourceError(source, "~ is not replaced by the home folder here: write the path out")
    if _is_url(source):
        _check_url(source)
    return source


def _check_url(source: str) -> None:
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname, parts.port
    except ValueError as err:
        raise SourceError(source, f"it is no address: {err}") from err
    if parts.scheme not in ("http", "https"):
        raise SourceError(source, f"{parts.scheme}:// is not supported")
    if not host:
        raise SourceError(source, "it names no host")


def _is_url(source: str) -> bool:
    return "://" in source


def is_path(source: str) -> bool:
    """Whether `source` names a file here; SourceError when it names nothing."""
    return book_number(source) is None and not _is_url(_checked(source))


def _read(source: str) -> bytes:
    path = Path(source)
    try:
        return path.read_bytes()
    except FileNotFoundError as err:
        raise SourceError(source, f"no such file{_looked_from(path)}") from err
    except IsADirectoryError as err:
        raise SourceError(source, "it is a folder") from err
    except OSError as err:
        raise SourceError(source, f"it cannot be read: {err.strerror}") from err


def _looked_from(path: Path) -> str:
    return "" if path.is_absolute() else f", looked for from the folder {Path.cwd()}"


def _served(
    place: str,
    limits: fetch.Limits,
    sleep: Callable[[float], object],
    turn: Callable[[str], AbstractContextManager[object]],
) -> bytes:
    if _is_url(place):
        with tempfile.TemporaryDirectory(prefix="charlm.") as folder, turn(place):
            to = Path(folder) / "served"
            fetch.download(place, to, limits=limits, sleep=sleep)
            return to.read_bytes()
    try:
        return Path(place).read_bytes()
    except OSError as err:
        raise fetch.RefusedError(f"not in the mirror: {err.strerror}{_looked_from(Path(place))}") from err


def from_served(served: bytes, *, name: str, from_gutenberg: bool, sha256: str | None) -> str:
    """The book in the bytes that `name` served, checked against `sha256`.

    A text that is not `from_gutenberg` and has no marker of Project Gutenberg's is taken as it is. One that is
    and has none must have the digest `sha256`.

    Raises TextError, BoilerplateError or DigestError when what was served is not the book.
    """
    text = decode(served, name)
    marked = has_marker(text)
    text = strip_boilerplate(text, name) if marked or from_gutenberg else text.rstrip("\n") + "\n"
    if not text.strip():
        raise TextError(name, "it is empty, or holds no book beside the boilerplate")
    found = hashlib.sha256(text.encode()).hexdigest()
    if from_gutenberg and not marked and found != sha256:
        digest = "has another digest than the pinned one" if sha256 else "no digest is pinned for it"
        raise BoilerplateError(name, f"it has no marker, and {digest} (its own is {found})")
    if sha256 is not None and found != sha256:
        raise DigestError(name, found, sha256, len(text))
    return text


def decode(served: bytes, name: str = "the text") -> str:
    """`served` as UTF-8, with or without a byte order mark, else as Windows-1252; line ends become LF.

    Raises TextError, which says `name`, when it is neither or holds NUL bytes.
    """
    if b"\0" in served:
        raise TextError(name, f"byte {served.index(0):,} is NUL, as in an archive, a picture or UTF-16")
    try:
        text = served.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = _decode_windows(served, name)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode_windows(served: bytes, name: str) -> str:
    try:
        return served.decode("cp1252")
    except UnicodeDecodeError as err:
        raise TextError(name, f"byte {err.start:,} ({served[err.start]:#04x}) fits no known encoding") from err


def has_marker(text: str) -> bool:
    """Whether `text` has a line that Project Gutenberg sets before or after a book."""
    return bool(_MARKER.search(text) or _SMALL_PRINT.search(text))


def strip_boilerplate(text: str, name: str = "the text") -> str:
    r"""The book in a Project Gutenberg file: no header, licence, credits or sign-off, one final newline.

    Empty lines at either end go, blanks before the first word stay. Line ends must be LF; `\x0b`, `\x85`
    and the like are characters of the book. In a text without markers the same is done to the whole.

    Raises BoilerplateError, which says `name`, when the markers do not pair or boilerplate remains at an end.
    """
    body = _after_small_print(_between_markers(text, name))
    body = _trimmed(_SIGN_OFF.sub("", body))
    thanks = _CREDITS.match(body)
    book = _trimmed(body[thanks.end() :] if thanks else body)
    _check_edges(book, name)
    return book


def _between_markers(text: str, name: str) -> str:
    """What stands between the innermost markers: a rebuilt file may wrap an older one with its own."""
    starts = [marker.end() for marker in _START.finditer(text)]
    ends = [marker.start() for marker in _END.finditer(text)]
    end = ends[0] if ends else len(text)
    if starts and starts[-1] > end:
        raise BoilerplateError(name, "a second *** START OF line follows the first *** END OF, as in two books joined")
    if starts and not ends and not _SIGN_OFF.search(text):
        raise BoilerplateError(name, "it has a *** START OF line and no *** END OF, as when it was cut short")
    if ends and not starts and not _SMALL_PRINT.search(text):
        raise BoilerplateError(name, "it has an *** END OF line and no *** START OF")
    return text[starts[-1] if starts else 0 : end]


def _after_small_print(body: str) -> str:
    ends = [end.end() for end in _SMALL_PRINT.finditer(body, 0, _SMALL_PRINT_WITHIN)]
    return body[ends[-1] :] if ends else body


def _trimmed(text: str) -> str:
    """`text` without the empty lines at its ends, blanks counting as empty, and with one final newline."""
    lines = text.split("\n")
    full = [number for number, line in enumerate(lines) if line.strip(" \t")]
    return "\n".join(lines[full[0] : full[-1] + 1]) + "\n" if full else ""


def _check_edges(book: str, name: str) -> None:
    lines = [line.strip() for line in book.split("\n") if line.strip()]
    for where, edge in (("start", lines[:_TELLTALE_LINES]), ("end", lines[-_TELLTALE_LINES:])):
        for line in edge:
            if _TELLTALE.search(line):
                raise BoilerplateError(name, f'boilerplate remains at the {where} of the book: "{line}"')
