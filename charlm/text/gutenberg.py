"""What an entry of `data.source` is, and where to look for it: a Project Gutenberg book, a URL or a path.

It makes no request and opens no file: `charlm.text.collection` does.
"""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from charlm.errors import RefusedError

SITES = ("https://www.gutenberg.org", "https://gutenberg.pglaf.org")

_BOOK = re.compile("gutenberg:([1-9][0-9]*)", re.IGNORECASE)
_PAGE = re.compile(
    r"https?://(?:www\.)?gutenberg\.org/ebooks/([1-9][0-9]*)(?:\.txt(?:\.utf-8)?)?/?(?:[?#].*)?", re.IGNORECASE
)
_HOST = re.compile(r"(?:.+\.)?(?:gutenberg|pglaf)\.org")


def is_url(place: str) -> bool:
    """Whether `place` is a URL, not a path."""
    return "://" in place


def is_path(source: str) -> bool:
    """Whether `source` is a local path."""
    return not is_url(source) and not source.lower().startswith("gutenberg:")


def book_number(source: str) -> int | None:
    """The number of the Project Gutenberg book that `source` names; `None` for any other source."""
    found = _BOOK.fullmatch(source) or _PAGE.fullmatch(source)
    return int(found[1]) if found else None


def is_gutenberg(source: str) -> bool:
    """Whether `source` is a Project Gutenberg book or an address on one of its hosts."""
    return book_number(source) is not None or bool(is_url(source) and _HOST.fullmatch(urlsplit(source).hostname or ""))


def addresses(source: str, mirror: str | None = None, sites: Sequence[str] = SITES) -> list[str]:
    """Where to look for `source`, in order: URLs and paths.

    A book of Project Gutenberg is looked for in `mirror` first, a base URL or a folder, then in `sites`; they share one
    layout. Raises RefusedError if `source` cannot be any kind of source.
    """
    number = book_number(source)
    if number is None:
        _check(source)
        return [source]
    bases = [mirror, *sites] if mirror else sites
    return [f"{base.rstrip('/')}/cache/epub/{number}/pg{number}.txt" for base in bases]


def _check(source: str) -> None:
    if not source.strip():
        raise RefusedError(f"{source!r} is empty")
    if source.startswith("~"):
        raise RefusedError(f"{source}: ~ is not expanded here: write out the path of the home folder")
    if is_url(source):
        _check_url(source)
    elif not is_path(source):
        raise RefusedError(f"{source}: what follows gutenberg: is not the number of a book")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as err:
        raise RefusedError(f"{url}: not a valid address: {err}") from err
    if parts.scheme not in ("http", "https"):
        raise RefusedError(f"{url}: {parts.scheme}:// is not supported")
    if not host:
        raise RefusedError(f"{url}: the address names no host")
