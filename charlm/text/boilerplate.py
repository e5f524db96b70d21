"""Strip what Project Gutenberg adds around a book: header, licence, credits and sign-off.

Those change from month to month while the book stays the same, so they go before a digest is taken. It works on plain
text alone: no HTML, no EPUB. The lines it looks for come from c-w/gutenberg (https://github.com/c-w/gutenberg) and
from old and new files. Unlike there, a file in which they do not pair is an error, never a guess.
"""

import re

from charlm.errors import RefusedError

_FLAGS = re.IGNORECASE | re.MULTILINE
_SAME_PARAGRAPH = r"(?:.|\n(?![ \t]*$))*?"
_REST_OF_PARAGRAPH = r".*(?:\n[ \t]*[^ \t\n].*)*+"
_EDGE = r"^[ \t]*\*{3,}[ \t]*%s\s+OF\s+(?:TH(?:E|IS)\s+)?(?:COPYRIGHTED\s+)?PROJECT\s+GUTENBERG\b"
_MARKER = re.compile(_EDGE % "(?:START|END)", _FLAGS)
# The closing stars must end a line: a title may contain stars itself ("Lettres de M*** à N***").
_START = re.compile(_EDGE % "START" + _SAME_PARAGRAPH + r"\*{3}[ \t]*$", _FLAGS)
_END = re.compile(_EDGE % "END" + _SAME_PARAGRAPH + r"\*{3}[ \t]*$", _FLAGS)
_SMALL_PRINT = re.compile(
    r"^[ \t]*\*+[ \t]*END[ \t]*\**[ \t]*(?:OF )?THE SMALL PRINT\b"
    rf"(?:{_SAME_PARAGRAPH}\*\s*END\s*\*+[ \t]*|.*)$",
    _FLAGS,
)
_SMALL_PRINT_STARTS = re.compile(r"^[ \t]*\*+[ \t]*START[ \t]*\**[ \t]*(?:OF )?THE SMALL PRINT\b", _FLAGS)
# Old headers end within 20,000 characters; small print further down belongs to a book inside an anthology.
_SMALL_PRINT_WITHIN = 30_000
_ONE_SIGN_OFF = r"^[^\w\n]*(?:this is )?(?:the )?end of (?:the |this )?project gutenberg" + _REST_OF_PARAGRAPH
_SIGN_OFF = re.compile(rf"(?:{_ONE_SIGN_OFF}\s*)+\Z", _FLAGS)
_ANY_SIGN_OFF = re.compile(_ONE_SIGN_OFF, _FLAGS)
_FEW_LINES = 10
"""That are not blank, at most, between a sign-off and the small print behind it, and after that."""
# In etexts of 1991 to 1995 it is repeated after the small print; a title may take three lines, a poem takes more.
_TITLE = (
    r"(?:the )?project gutenberg(?:\Ws)? (?:e-?text|e-?book|edition)\b.*$"
    r"(?:(?:\n[ \t]*[^ \t\n].*){1,2}(?=\n[ \t]*(?:\n|\Z)))?"
)
_CREDITS = re.compile(
    rf"(?:\s*^[ \t*\[(_]*(?:{_TITLE}|(?:"
    r"(?:this |the )?(?:project gutenberg )?(?:e-?text |e-?book )?(?:was |is )?"
    r"(?:produced|prepared|transcribed|scanned|digiti[sz]ed|proofed|proofread)"
    r"(?:,? (?:and )?\w+)? (?:by|from)\b"
    r"|note: project gutenberg also has|images of the original pages are available"
    r")" + _REST_OF_PARAGRAPH + "))+",
    _FLAGS,
)
_TELLTALE = re.compile(
    r"project gutenberg|gutenberg\.(?:org|net)\b|small print!|distributed proofread|pgdp\.net", re.IGNORECASE
)
_TELLTALE_LINES = 10


def has_marker(text: str) -> bool:
    """Whether `text` has a line that Project Gutenberg puts before or after a book."""
    return bool(_MARKER.search(text) or _SMALL_PRINT.search(text))


def strip_boilerplate(text: str) -> str:
    r"""The book in a Project Gutenberg file, without empty lines at either end and with one final newline.

    Line ends must be LF; `\x0b`, `\x85` and the like are characters of the book. A text without markers loses only
    credits, sign-off and empty lines. Raises RefusedError if the markers do not pair, if boilerplate remains at either
    end, or if nothing is left.
    """
    body = _after_small_print(_before_small_print(_between_markers(text)))
    body = _trimmed(_SIGN_OFF.sub("", body))
    thanks = _CREDITS.match(body)
    book = _trimmed(body[thanks.end() :] if thanks else body)
    if not book.strip():
        raise RefusedError("it contains nothing but Project Gutenberg's boilerplate")
    _check_edges(book)
    return book


def _between_markers(text: str) -> str:
    """What is between the innermost markers: a rebuilt file may put its own around those of an older one."""
    starts = [marker.end() for marker in _START.finditer(text)]
    ends = [marker.start() for marker in _END.finditer(text)]
    end = ends[0] if ends else len(text)
    if starts and starts[-1] > end:
        raise RefusedError("a second *** START OF line follows the first *** END OF, as in two books joined")
    if starts and not ends and not _SIGN_OFF.search(text):
        raise RefusedError("it has a *** START OF line and no *** END OF, as when it was cut short")
    if ends and not starts and not _SMALL_PRINT.search(text):
        raise RefusedError("it has an *** END OF line and no *** START OF")
    return text[starts[-1] if starts else 0 : end]


def _before_small_print(body: str) -> str:
    """What is before the small print that some short etexts have behind their sign-off."""
    ends = list(_SMALL_PRINT.finditer(body))
    if not ends or _lines(body[ends[-1].end() :]) > _FEW_LINES:
        return body
    starts = [start.start() for start in _SMALL_PRINT_STARTS.finditer(body, 0, ends[-1].start())]
    starts = [start for start in starts if len(ends) == 1 or start > ends[-2].end()]
    start = starts[-1] if starts else ends[-1].start()
    sign_offs = [sign_off.end() for sign_off in _ANY_SIGN_OFF.finditer(body, 0, start)]
    return body[: sign_offs[-1]] if sign_offs and _lines(body[sign_offs[-1] : start]) <= _FEW_LINES else body


def _after_small_print(body: str) -> str:
    ends = list(_SMALL_PRINT.finditer(body, 0, _SMALL_PRINT_WITHIN))
    if ends and _ANY_SIGN_OFF.search(body, 0, ends[-1].start()):
        raise RefusedError("a small print follows a sign-off, and a book follows that, as in two books joined")
    return body[ends[-1].end() :] if ends else body


def _lines(text: str) -> int:
    """The number of lines that are not blank."""
    return sum(1 for line in text.split("\n") if line.strip())


def _trimmed(text: str) -> str:
    """`text` without the empty lines at its ends, counting blank ones as empty, and with one final newline."""
    lines = text.split("\n")
    full = [number for number, line in enumerate(lines) if line.strip(" \t")]
    return "\n".join(lines[full[0] : full[-1] + 1]) + "\n" if full else ""


def _check_edges(book: str) -> None:
    lines = [line.strip() for line in book.split("\n") if line.strip()]
    for where, edge in (("start", lines[:_TELLTALE_LINES]), ("end", lines[-_TELLTALE_LINES:])):
        for line in edge:
            if _TELLTALE.search(line):
                raise RefusedError(f'boilerplate remains at the {where} of the book: "{line}"')
