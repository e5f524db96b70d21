"""From what a person names, and what is served for it, to the book alone."""

import hashlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import CharlmError
from charlm.text.gutenberg import (
    BoilerplateError,
    DigestError,
    RouteError,
    SourceError,
    TextError,
    addresses,
    book,
    book_number,
    decode,
    from_served,
    has_marker,
    is_gutenberg,
    strip_boilerplate,
)

PROJECT = Path(__file__).parents[2]
BOOK = "  [Illustration: A CAT]\n\n\nTHE CAT\n\nShe sat. “Well,” said Zoë.\n\n   The End\n"
REAL_SHA256 = "8e74cda23435d7e7ea953cdf23b8f722629f0a62c9ba767465d91a0c44cb5e19"

# What Project Gutenberg has set before and after a book in its time.
GENERATIONS = {
    "2023": (
        "The Project Gutenberg eBook of The Cat\n    \nThis ebook is for the use of anyone anywhere.\n\n"
        "Title: The Cat\n\nCredits: Produced by Ann\n\n\n"
        "*** START OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n\n\n\n\nProduced by Ann and the Online Distributed\n"
        "Proofreading Team at http://www.pgdp.net\n\n\n    \n\n",
        "\n\n\n\nEnd of Project Gutenberg's The Cat, by A. Writer\n\n\n\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n\n    \n\nUpdated editions will replace the previous "
        "one\n\nSTART: FULL LICENSE\n\nTHE FULL PROJECT GUTENBERG LICENSE\nwww.gutenberg.org\n",
    ),
    "2024, by number": (
        "The Project Gutenberg eBook of The Cat\n\n*** START OF THE PROJECT GUTENBERG EBOOK 22566 ***\n\n",
        "\n*** END OF THE PROJECT GUTENBERG EBOOK 22566 ***\n",
    ),
    "2010": (
        "The Project Gutenberg EBook of The Cat, by A. Writer\n\nCharacter set encoding: ASCII\n\n"
        "  *** START OF THIS PROJECT GUTENBERG EBOOK THE CAT, A STORY WITH A LONG\n"
        "  TITLE FOR N*** ***  \n\n\n\n\n",
        "\n\nEnd of the Project Gutenberg EBook of The Cat, a Story with a Long\nTitle, by A. Writer\n\n"
        "  *** END OF THIS PROJECT GUTENBERG EBOOK THE CAT, A STORY WITH A LONG\n  TITLE FOR N*** ***\n\n"
        "***** This file should be named 22566.txt or 22566.zip *****\n\n*** START: FULL LICENSE ***\n",
    ),
    "2009, with no marker below": (
        "*** START OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n\n",
        "\n\n*** End of Project Gutenberg's The Cat, by A. Writer ***\n",
    ),
    "2006": (
        "The Project Gutenberg eBook, The Cat, by A. Writer\n\n\n"
        "***START OF THE PROJECT GUTENBERG EBOOK THE CAT***\n\n\nE-text prepared by Ann\n\n\n\n"
        "Note: Project Gutenberg also has an HTML version of this\n      file. See 22566-h.htm:\n"
        "      (https://www.gutenberg.org/files/22566/22566-h.htm)\n\n\n"
        "      Images of the original pages are available through\n      Internet Archive.\n\n\n\n\n",
        "\n\n\n***END OF THE PROJECT GUTENBERG EBOOK THE CAT***\n\n\n******* This file should be named 22566 *******\n",
    ),
    "2003": (
        "*** START OF THE PROJECT GUTENBERG EBOOK, THE CAT ***\n\n\n\n\nThis eBook was produced by Ann.\n\n",
        "\n\n*** END OF THE PROJECT GUTENBERG EBOOK, THE CAT ***\n\n"
        "[Portions of this eBook's header and trailer may be reprinted.]\n\n"
        "*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n",
    ),
    "1993": (
        "**The Project Gutenberg Etext of The Cat, by A. Writer**\n\n"
        "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\n\nSEND MONEY.\n\n"
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n\n\n",
        "\n\n\n\n\nEnd of The Project Gutenberg Etext of The Cat\n\n",
    ),
    "2001, with nothing below": (
        "The Project Gutenberg Etext of The Cat\n\n"
        "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.07.00*\nEND*\n\n\n"
        "This etext was scanned and proofread by Ann, ann@example.org\n\n",
        "",
    ),
    "2002, with no marker above": (
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.10.04.01*END*\n\n",
        "\n\n*** END OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n",
    ),
    "rebuilt around a newer file": (
        "*** START OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n\nThe Project Gutenberg EBook of The Cat\n\n"
        "*** START OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n\n",
        "\n\n*** END OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n",
    ),
    "rebuilt around an older file": (
        "The Project Gutenberg eBook of The Cat\n\n*** START OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n\n"
        "The Project Gutenberg Etext of The Cat\n\n*** START OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n\n"
        "*END*THE SMALL PRINT! FOR COPYRIGHT PROTECTED ETEXTS*Ver.04.29.93*END*\n\n"
        "[Transcribed from the 1908 edition by Ann]\n\n",
        "\n\nEnd of this Project Gutenberg Etext of The Cat\n\n\nEnd of Project Gutenberg's The Cat\n\n"
        "*** END OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n\n*** END OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n",
    ),
}
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig"])
LINE_ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}

# Whitespace that str.splitlines takes for line ends is a part of the book.
LINES = st.text(st.sampled_from("aZ*. \t\x0b\x0c\x1c\x85\xa0\u2028é”") | st.characters(exclude_categories=["Cs"]))
LINES = LINES.map(lambda line: line.translate({ord(end): None for end in "\r\n\0\ufeff"}))
FULL_LINES = LINES.filter(lambda line: bool(line.strip(" \t")))
BOOKS = st.builds(
    lambda first, lines, last: "\n".join([first, *lines, last]) + "\n",
    FULL_LINES,
    st.lists(LINES),
    FULL_LINES,
).filter(str.strip)  # nothing but blanks of any kind is no book


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def in_layout(folder: Path, served: bytes, number: int = 22566) -> Path:
    """Lay `served` into `folder` where Project Gutenberg would keep it."""
    path = folder / f"cache/epub/{number}/pg{number}.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(served)
    return folder


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Keep stderr to what is tested."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The base URL of a server over the folder `tmp_path`/site."""
    (tmp_path / "site").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "site"))) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def nowhere() -> str:
    """A base URL at which nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


# What a person names


@pytest.mark.parametrize(
    "source",
    [
        "gutenberg:22566",
        "Gutenberg:22566",
        "https://www.gutenberg.org/ebooks/22566",
        "https://www.gutenberg.org/ebooks/22566/",
        "https://gutenberg.org/ebooks/22566",
        "http://www.gutenberg.org/ebooks/22566",
        "https://www.gutenberg.org/ebooks/22566.txt.utf-8",
        "https://www.gutenberg.org/ebooks/22566?msg=welcome_stranger#download",
    ],
)
def test_a_gutenberg_page_means_the_text_of_that_book_on_two_hosts(source: str) -> None:
    assert addresses(source) == [
        "https://www.gutenberg.org/cache/epub/22566/pg22566.txt",
        "https://gutenberg.pglaf.org/cache/epub/22566/pg22566.txt",
    ]
    assert is_gutenberg(source)


@pytest.mark.parametrize("mirror", ["https://mirror.example/pub", "https://mirror.example/pub/", "/a/folder", "there"])
def test_the_mirror_goes_first(mirror: str) -> None:
    path = "cache/epub/55/pg55.txt"
    assert addresses("gutenberg:55", mirror)[0] == f"{mirror.rstrip('/')}/{path}"
    assert addresses("gutenberg:55", mirror)[1:] == addresses("gutenberg:55")


def test_an_empty_mirror_is_none() -> None:
    assert addresses("gutenberg:55", "") == addresses("gutenberg:55")


@pytest.mark.parametrize(
    ("source", "theirs"),
    [
        ("https://www.gutenberg.org/files/22566/22566-0.txt", True),
        ("https://gutenberg.pglaf.org/2/2/5/6/22566/22566-0.txt", True),
        ("https://WWW.GUTENBERG.ORG/files/22566/22566-0.txt", True),
        ("https://www.gutenberg.org/ebooks/author/42", True),
        ("https://example.org/gutenberg.org/ebooks/22566", False),
        ("https://notgutenberg.org/ebooks/22566", False),
        ("https://gutenberg.org.example/ebooks/22566", False),
        ("http://example.org/a.txt", False),
        ("books/gutenberg.org.txt", False),
    ],
)
def test_any_other_source_is_its_own_address_even_with_a_mirror(source: str, theirs: object) -> None:
    assert book_number(source) is None
    assert addresses(source, "/a/folder") == [source]
    assert is_gutenberg(source) == theirs


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("ftp://example.org/a.txt", "ftp:// is not supported"),
        ("file:///a.txt", "file:// is not supported"),
        ("https:///a.txt", "it names no host"),
        ("https://[::1/a.txt", "it is no address: Invalid IPv6 URL"),
        ("http://example.org:99999/", "it is no address: Port out of range 0-65535"),
        ("gutenberg:abc", "'abc' is not the number of a book"),
        ("gutenberg:", "'' is not the number of a book"),
        ("gutenberg:0", "'0' is not the number of a book"),
        ("~/a.txt", "~ is not replaced by the home folder here: write the path out"),
    ],
)
def test_an_unusable_source_is_refused(source: str, found: str) -> None:
    with pytest.raises(SourceError) as refused:
        book(source)
    assert refused.value.message == (
        f"data.source is {source!r}: {found}.\nExpected a Project Gutenberg page "
        "(https://www.gutenberg.org/ebooks/22566, or gutenberg:22566), the http(s) address of a text, "
        "the path of a text file, a pattern of such paths (books/*.txt), or a list of these."
    )


def test_a_missing_file_is_refused_with_the_folder_it_was_looked_for_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=re.escape(f"'a.txt': no such file, looked for from the folder {tmp_path}.")):
        book("a.txt")
    with pytest.raises(SourceError, match=re.escape(f"'{tmp_path}/a.txt': no such file.")):
        book(f"{tmp_path}/a.txt")


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="it is a folder"):
        book(str(tmp_path))


# What was served


@pytest.mark.parametrize(
    ("served", "text"),
    [
        ("naïve”\n".encode(), "naïve”\n"),
        ("naïve”\n".encode("utf-8-sig"), "naïve”\n"),
        ("naïve”\n".encode("cp1252"), "naïve”\n"),
        (b"a\r\nb\rc\nd\r\r\n", "a\nb\nc\nd\n\n"),
        ("a\x0bb\x0cc\x1cd\x85e\u2028f".encode(), "a\x0bb\x0cc\x1cd\x85e\u2028f"),
        (b"", ""),
    ],
)
def test_decode(served: bytes, text: str) -> None:
    assert decode(served) == text


@given(LINES, ENCODINGS)
def test_decode_gives_back_any_text_in_utf_8(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == text


@given(st.lists(LINES), st.lists(st.sampled_from(sorted(LINE_ENDS.values()))))
def test_decode_leaves_no_carriage_return(lines: list[str], ends: list[str]) -> None:
    served = "".join(line + end for line, end in zip(lines, ends, strict=False))
    assert decode(served.encode()) == re.sub("\r\n|\r|\n", "\n", served)


@pytest.mark.parametrize(
    ("served", "found"),
    [
        (b"PK\x03\x04\x00", "byte 4 is NUL, as in an archive, a picture or UTF-16"),
        ("text".encode("utf-16"), "byte 3 is NUL, as in an archive, a picture or UTF-16"),
        (b"caf\x8d", "byte 3 (0x8d) fits no known encoding"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, served: bytes, found: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(served)
    with pytest.raises(TextError) as refused:
        book(str(path))
    assert refused.value.message == (
        f"{path} is no text: {found}. Expected UTF-8 or Windows-1252.\n"
        "Save it as plain UTF-8 text and set data.source to its path, or name another source."
    )


@pytest.mark.parametrize("served", ["", "\n \n", "\ufeff"])
def test_an_empty_file_is_refused(tmp_path: Path, served: str) -> None:
    (tmp_path / "a.txt").write_text(served, encoding="utf-8")
    with pytest.raises(TextError, match="it is empty, or holds no book beside the boilerplate"):
        book(str(tmp_path / "a.txt"))


# From a Gutenberg file to the book


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_book_stands_alone_whatever_generation_was_served(generation: str) -> None:
    header, footer = GENERATIONS[generation]
    assert has_marker(header + BOOK + footer)
    assert strip_boilerplate(header + BOOK + footer) == BOOK


@given(BOOKS, st.sampled_from(sorted(GENERATIONS)), st.sampled_from(sorted(LINE_ENDS)), ENCODINGS)
def test_any_book_comes_out_of_any_file_as_it_went_in(text: str, generation: str, line_end: str, encoding: str) -> None:
    header, footer = GENERATIONS[generation]
    file = (header + text + footer).replace("\n", LINE_ENDS[line_end])
    assert from_served(file.encode(encoding), name="it", from_gutenberg=True, sha256=digest(text)) == text


@given(BOOKS)
def test_a_book_without_boilerplate_stays_as_it_is(text: str) -> None:
    assert strip_boilerplate(text) == text
    assert from_served(text.encode(), name="it", from_gutenberg=False, sha256=None) == text


def test_empty_lines_at_either_end_go_and_blanks_in_full_lines_stay() -> None:
    assert strip_boilerplate("\n \t\n\n  first  \n\n \nlast  \n  \n\n ") == "  first  \n\n \nlast  \n"


def test_credits_and_sign_offs_inside_the_book_stay() -> None:
    text = "One\n\nProduced by Ann\n\nEnd of Project Gutenberg's reign\n\n" + "Two\n" * 10
    assert strip_boilerplate("Zero\n" * 10 + text) == "Zero\n" * 10 + text


def test_a_small_print_deep_in_an_anthology_takes_nothing_away() -> None:
    anthology = "One\n" * 10_000 + "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n" + "Two\n" * 100
    header, footer = GENERATIONS["2010"]
    assert strip_boilerplate(header + anthology + footer) == anthology


def test_many_sign_offs_in_the_middle_take_no_time() -> None:
    """The time doubled with every such line: each could be cut between two of the pattern's rounds."""
    text = "a\n" * 20 + "End of Project Gutenberg\n" * 200 + "\nand then the story goes on\n" * 20
    assert strip_boilerplate(text) == text


def test_ten_megabytes_of_stars_and_empty_lines_take_no_time() -> None:
    """The patterns are tried at every line: none may look at the rest of the text each time."""
    text = "a\n" + "   *   *   *\n\n \n" * 200_000 + "End of it all\n"
    assert strip_boilerplate(text) == text


@pytest.mark.parametrize(
    ("file", "found"),
    [
        (
            GENERATIONS["2010"][0] + BOOK,
            "it has a *** START OF line and no *** END OF, as when it was cut short",
        ),
        (BOOK + GENERATIONS["2010"][1], "it has an *** END OF line and no *** START OF"),
        (
            (GENERATIONS["2010"][0] + BOOK + GENERATIONS["2010"][1]) * 2,
            "a second *** START OF line follows the first *** END OF, as in two books joined",
        ),
        (
            "*** START OF THE PROJECT GUTENBERG EBOOK\n\n" + BOOK,
            'boilerplate remains at the start of the book: "*** START OF THE PROJECT GUTENBERG EBOOK"',
        ),
        (
            GENERATIONS["1993"][0] + BOOK * 4 + "\nThis file comes from www.gutenberg.org.\n",
            'boilerplate remains at the end of the book: "This file comes from www.gutenberg.org."',
        ),
    ],
)
def test_a_damaged_gutenberg_file_is_refused_even_as_a_path(tmp_path: Path, file: str, found: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(file, encoding="utf-8")
    with pytest.raises(BoilerplateError) as refused:
        book(str(path))
    assert refused.value.message == (
        f"{path}: {found}.\nExpected a Project Gutenberg file, with the book between its "
        "*** START OF and *** END OF lines.\nSave the text of the book alone to a file and set data.source to its path."
    )


def test_nothing_between_the_markers_is_refused() -> None:
    file = "".join(GENERATIONS["2024, by number"]).encode()
    with pytest.raises(TextError, match="holds no book beside the boilerplate"):
        from_served(file, name="it", from_gutenberg=True, sha256=None)


def test_a_gutenberg_file_without_markers_must_have_the_pinned_digest() -> None:
    assert from_served(BOOK.encode(), name="it", from_gutenberg=True, sha256=digest(BOOK)) == BOOK
    for sha256, pinned in (
        (None, "no digest is pinned for it"),
        (REAL_SHA256, "has another digest than the pinned one"),
    ):
        with pytest.raises(BoilerplateError) as refused:
            from_served(BOOK.encode(), name="it", from_gutenberg=True, sha256=sha256)
        found = f"it: it has no marker, and {pinned} (its own is {digest(BOOK)})"
        assert refused.value.message.startswith(found)


# The whole


def test_a_file_that_is_not_gutenbergs_is_taken_as_it_is(tmp_path: Path) -> None:
    text = "\n\nProduced by Ann\n\nEnd of Project Gutenberg's reign\n  \n"
    (tmp_path / "a.txt").write_bytes((text + "\n\n").replace("\n", "\r\n").encode("utf-8-sig"))
    assert book(str(tmp_path / "a.txt"), sha256=digest(text)) == text


def test_a_gutenberg_file_in_a_folder_is_stripped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header, footer = GENERATIONS["2023"]
    (tmp_path / "a.txt").write_text(header + BOOK + footer, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert book("a.txt") == BOOK


def test_the_final_line_gets_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo")
    assert book(str(tmp_path / "a.txt")) == "one\ntwo\n"


def test_another_text_than_the_pinned_one_is_refused_with_both_digests(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(BOOK, encoding="utf-8")
    with pytest.raises(DigestError) as refused:
        book(str(path), sha256=REAL_SHA256)
    assert refused.value.message == (
        f"{path} gave another text than the pinned one.\n"
        f"  found:    {digest(BOOK)} ({len(BOOK)} characters)\n"
        f"  expected: {REAL_SHA256} (data.sha256)\n"
        "If you want this text, set data.sha256 to the digest found, or to null to accept any text.\n"
        "If not, take the right one: from another copy, or another data.source."
    )


def test_a_url_is_fetched_as_it_is(tmp_path: Path, site: str) -> None:
    (tmp_path / "site/a.txt").write_text(BOOK, encoding="utf-8")
    assert book(f"{site}/a.txt", mirror=str(tmp_path)) == BOOK


def test_a_mirror_is_a_folder_or_a_server(tmp_path: Path, site: str) -> None:
    header, footer = GENERATIONS["2023"]
    folder = in_layout(tmp_path / "site", (header + BOOK + footer).encode())
    for mirror in (str(folder), f"{folder}/", site):
        assert book("gutenberg:22566", mirror=mirror, sites=()) == BOOK


def test_the_next_address_is_asked_when_one_fails(tmp_path: Path, site: str, nowhere: str) -> None:
    header, footer = GENERATIONS["2023"]
    in_layout(tmp_path / "site", (header + BOOK + footer).encode())
    assert book("gutenberg:22566", mirror=str(tmp_path / "empty"), sites=(nowhere, site)) == BOOK


def test_when_every_address_failed_each_is_listed_with_the_ways_out(
    tmp_path: Path, site: str, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RouteError) as refused:
        book("gutenberg:55", mirror="empty", sites=(nowhere, site))
    path = "cache/epub/55/pg55.txt"
    lines = refused.value.message.split("\n")
    assert lines[:2] == [
        "No text came for data.source gutenberg:55:",
        f"  empty/{path}: not in the mirror: No such file or directory, looked for from the folder {tmp_path}",
    ]
    assert lines[2].startswith(f"  {nowhere}/{path}: no connection: ")
    assert lines[3].startswith(f"  {site}/{path}: 404 File not found: it has no such file: ")
    assert lines[4:] == [
        "Ways out:",
        "  a mirror, a base URL or a folder that holds cache/epub/<number>/pg<number>.txt:",
        "    CHARLM_GUTENBERG_MIRROR=<URL or folder> dvc repro",
        "  a file that you have (with -S data.sha256=null if it is another text than the pinned one):",
        "    dvc exp run -S data.source=<path>",
        "  the tale that comes with charlm:",
        "    dvc exp run -S data.source=tests/tale.txt -S data.sha256=null",
    ]


def test_the_tale_that_the_ways_out_name_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    assert 25_000 <= len(book("tests/tale.txt")) <= 40_000


def test_every_error_is_one_that_the_command_line_shows_without_a_traceback() -> None:
    errors = (BoilerplateError, DigestError, RouteError, SourceError, TextError)
    assert all(issubclass(error, CharlmError) for error in errors)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    program = "import sys, charlm.text.gutenberg; print({'httpx', 'rich', 'torch', 'mlflow', 'dvc'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


# The real books


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("number", "characters", "distinct", "sha256"),
    [
        (22566, 232_411, 80, REAL_SHA256),
        (54, 243_244, 76, "d5404c6c5f7b745bdc845dc32b0e50220c042917f58a0933e4c5730c08b18c7a"),
        (55, 208_347, 75, "d82284521615a4d0eb6cfd06d366b8c60a3927940922b743f04e009eb81bbca6"),
    ],
)
def test_the_real_books_have_their_digests(
    mirror: Path, number: int, characters: int, distinct: int, sha256: str
) -> None:
    text = book(f"https://www.gutenberg.org/ebooks/{number}", mirror=str(mirror), sha256=sha256, sites=())
    assert (len(text), len(set(text))) == (characters, distinct)


@pytest.mark.mirror
def test_the_real_books_begin_and_end_with_their_own_words(mirror: Path) -> None:
    texts = {number: book(f"gutenberg:{number}", mirror=str(mirror), sites=()) for number in (22566, 54, 55)}
    assert {number: (text.split("\n")[0].strip(), text.split("\n")[-2].strip()) for number, text in texts.items()} == {
        22566: ("[Illustration: DOROTHY AND THE WIZARD]", "[Illustration]"),
        54: ("The Marvelous", "The End"),
        55: ("The Wonderful Wizard of Oz", "And oh, Aunt Em!  I'm so glad to be at home again!\""),
    }


@pytest.mark.mirror
@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_the_real_book_keeps_its_digest_in_any_generation(mirror: Path, generation: str, line_end: str) -> None:
    text = book("gutenberg:22566", mirror=str(mirror), sites=())
    header, footer = GENERATIONS[generation]
    served = (header + text + footer).replace("\n", LINE_ENDS[line_end]).encode("utf-8-sig")
    assert from_served(served, name="it", from_gutenberg=True, sha256=REAL_SHA256) == text
