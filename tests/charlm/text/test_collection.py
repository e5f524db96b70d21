"""From data.source to one file: patterns, decoding, joining, what is fetched and kept, and every error at once."""

import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import CharlmError, RefusedError
from charlm.text import collection
from charlm.text.collection import expand, read_source, require_all, write
from charlm.text.encoding import decide
from charlm.text.http import Client

PROJECT = Path(__file__).resolve().parents[3]
HEADER = "*** START OF THE PROJECT GUTENBERG EBOOK IT ***\n\n"
FOOTER = "\n*** END OF THE PROJECT GUTENBERG EBOOK IT ***\n"

pytestmark = pytest.mark.usefixtures("plainly")


class Server(ThreadingHTTPServer):
    """Serves `texts` by their path, as `types` says, 404 for any other, and lists the paths that were requested."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.texts: dict[str, str | bytes] = {}
        self.types: dict[str, str] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path not in self.server.texts:
            self.send_error(404)
            return
        text = self.server.texts[self.path]
        body = text if isinstance(text, bytes) else text.encode()
        self.send_response(200)
        if self.path in self.server.types:
            self.send_header("Content-Type", self.server.types[self.path])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep stderr to what is tested."""


@pytest.fixture
def server(serving: Callable[..., Any]) -> Iterator[Server]:
    with Server() as server, serving(server):
        yield server


class Collect:
    """Writes the texts of its arguments to a file, keeps what it fetches, and waits for nothing."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.to, self.kept = folder / "book.txt", folder / "texts"
        self.server = server
        self.encodings: list[str] = []

    def __call__(self, *sources: str, sites: Any = None, **settings: Any) -> str:
        client, sites = Client(sleep=lambda _: None), [self.server.url] if sites is None else sites
        found = write(self.to, sources, kept=self.kept, sites=sites, client=client, **settings)
        self.encodings = [str(encoding) for encoding in found]
        return self.to.read_bytes().decode()

    def refused(self, *sources: str, **settings: Any) -> list[str]:
        """The lines of the error, after which the file must be as it was."""
        self.to.write_text("old")
        with pytest.raises(CharlmError) as refused:
            self(*sources, **settings)
        assert self.to.read_text() == "old"
        return refused.value.message.split("\n")


@pytest.fixture
def collect(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Collect:
    monkeypatch.chdir(tmp_path)
    return Collect(tmp_path, server)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# Patterns


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with some books and what else may lie among them."""
    for name in (
        "books/b.txt",
        "books/a.txt",
        "books/.hidden.txt",
        "books/more/c.txt",
        "books/d.md",
        "books/x[1].txt",
        ".venv/e.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("Text\n")
    (tmp_path / "books/folder.txt").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["books/*.txt"], ["books/a.txt", "books/b.txt", "books/x[1].txt"]),
        (["books/[ab].txt"], ["books/a.txt", "books/b.txt"]),
        (["**/*d.*"], ["books/d.md"]),
        ([".ven?/*.txt"], [".ven?/*.txt"]),
        ([".venv/*.txt"], [".venv/e.txt"]),
        (["**/?.txt"], ["books/a.txt", "books/b.txt", "books/more/c.txt"]),
        (["books/?.md", "books/[ab].*", "gutenberg:55"], ["books/d.md", "books/a.txt", "books/b.txt", "gutenberg:55"]),
        (["books/b.txt", "books/a.txt", "books/b.txt"], ["books/b.txt", "books/a.txt", "books/b.txt"]),
        # No pattern, or one that matches nothing.
        (["books/x[1].txt"], ["books/x[1].txt"]),
        (["books/z*.txt"], ["books/z*.txt"]),
        (["https://example.org/a?b=*"], ["https://example.org/a?b=*"]),
    ],
)
def test_a_pattern_is_replaced_by_the_files_that_match_in_order(
    books: Path, sources: list[str], expected: list[str]
) -> None:
    assert expand(sources) == expected


def test_a_pattern_may_begin_anywhere(books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absolute = str(books / "books/?.txt")
    expected = [str(books / "books/a.txt"), str(books / "books/b.txt")]
    monkeypatch.chdir(books / "books/more")
    assert expand([absolute]) == expected
    assert expand(["../?.txt"]) == ["../a.txt", "../b.txt"]
    assert expand(["../?.txt"], books / "books/more") == ["../a.txt", "../b.txt"]


@pytest.mark.parametrize("source", ["books/**.txt", "/*" * 3000])
def test_an_invalid_pattern_is_refused(source: str) -> None:
    with pytest.raises(CharlmError, match="which is not a valid pattern: "):
        expand([source])


def test_files_that_an_experiment_did_not_get_are_reported(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc exp run --temp` used to learn from only those files that git tracks, and say nothing.

    Of a file named by its path it said that there is none, with no word of git.
    """
    experiment = tmp_path / "experiment/books"
    experiment.mkdir(parents=True)
    (experiment / "b.txt").write_text("Text\n")
    monkeypatch.chdir(experiment.parent)
    require_all(["books/b*.txt"], books)
    require_all(["books/b.txt", "gutenberg:55"], books)
    for source in ("books/[ab].txt", "books/a.txt"):
        with pytest.raises(CharlmError) as err:
            require_all(["gutenberg:55", source], books)
        assert err.value.message == (
            f"The folder of this experiment lacks 1 files of data.source that are in {books}: books/a.txt.\n"
            "DVC copies only what git tracks: `git add` them, or run without --temp and --queue."
        )


# One text


def read(path: Path, served: bytes, *, size: int = 2**16, **settings: Any) -> str:
    path.write_bytes(served)
    codec = decide(path, size=size).codec
    return "".join(read_source(path, codec, size=size, **({"from_gutenberg": False} | settings)))


@pytest.mark.parametrize(
    ("served", "text"),
    [
        ("naïve”\n".encode(), "naïve”\n"),
        ("naïve”\n".encode("utf-8-sig"), "naïve”\n"),
        ("naïve”\n".encode("utf-16"), "naïve”\n"),
        (b"a\r\nb\rc\nd\r\r\ne", "a\nb\nc\nd\n\ne\n"),
        ("a\x0bb\x0cc\x1cd\x85e\u2028f".encode(), "a\x0bb\x0cc\x1cd\x85e\u2028f\n"),
        (b"\n\n one  \n \n\r\n\r", "\n\n one  \n \n"),
        (b"\x1aone\n\x1a\ntwo\r\n\x1a", "\x1aone\n\x1a\ntwo\n"),
        (b"one\n\n\x1a\x1a\r\n", "one\n"),
        (
            b"\n\nProduced by Ann\n\nEnd of Project Gutenberg's reign\n  ",
            "\n\nProduced by Ann\n\nEnd of Project Gutenberg's reign\n  \n",
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 2**16])
def test_a_file_that_is_not_gutenbergs_keeps_all_but_its_encoding_and_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: bytes, text: str, size: int
) -> None:
    assert read(tmp_path / "a.txt", served, size=size) == text
    monkeypatch.setattr(collection, "MAX_GUTENBERG_SIZE", 0)
    assert read(tmp_path / "a.txt", served, size=size) == text


CHARACTERS = st.sampled_from("aé”🐈\x1a \r\n") | st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])


@given(st.text(CHARACTERS), ENCODINGS, st.integers(1, 9), st.booleans())
def test_the_text_is_the_same_wherever_blocks_end_and_whether_streamed_or_not(
    tmp_path_factory: pytest.TempPathFactory, text: str, encoding: str, size: int, streamed: object
) -> None:
    served, expected = text.encode(encoding), re.sub("\r\n|\r", "\n", text).rstrip("\n\x1a") + "\n"
    path = tmp_path_factory.mktemp("text") / "a.txt"
    with pytest.MonkeyPatch.context() as patch:
        if streamed:
            patch.setattr(collection, "MAX_GUTENBERG_SIZE", 0)
        if expected.strip():
            assert read(path, served, size=size) == expected
        else:
            with pytest.raises(RefusedError, match=r"^it is empty$"):
                read(path, served, size=size)


@pytest.mark.parametrize(
    ("served", "found"),
    [
        (b"PK\x03\x04\x00", "byte 4 is NUL, as in an archive, a picture or UTF-16 without a mark"),
        ("text".encode("utf-16-le"), "byte 1 is NUL, as in an archive, a picture or UTF-16 without a mark"),
        (b"\x1a", "it is empty"),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 2**16])
def test_what_is_no_text_is_refused(tmp_path: Path, served: bytes, found: str, size: int) -> None:
    with pytest.raises(RefusedError, match=f"^{re.escape(found)}$"):
        read(tmp_path / "a.txt", served, size=size)


def test_a_file_is_stripped_if_it_is_gutenbergs_or_looks_like_it(tmp_path: Path) -> None:
    served = f"{HEADER}\n\nProduced by Ann\n\nOz\n\n{FOOTER}".replace("\n", "\r\n").encode("utf-8-sig")
    assert read(tmp_path / "a.txt", served) == "Oz\n"
    assert read(tmp_path / "a.txt", served, from_gutenberg=True) == "Oz\n"


def test_a_gutenberg_file_without_markers_must_have_the_pinned_digest(tmp_path: Path) -> None:
    path, text = tmp_path / "a.txt", "Oz\n"
    assert read(path, text.encode(), from_gutenberg=True, pinned=digest(text)) == text
    for pinned in (None, "0" * 64):
        with pytest.raises(
            RefusedError, match=f"^it has no .* line, and its digest is not the pinned one: {digest(text)}$"
        ):
            read(path, text.encode(), from_gutenberg=True, pinned=pinned)


def test_a_file_too_large_for_a_book_is_written_block_by_block_with_all_that_is_in_it(
    collect: Collect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 400 MB used to take 2 GB of memory."""
    served = (HEADER + "Mine, naïve\n" * 20_000 + FOOTER).encode()
    (tmp_path / "own.txt").write_bytes(served)
    assert "START OF" not in collect("own.txt")
    monkeypatch.setattr(collection, "MAX_GUTENBERG_SIZE", len(served) - 1)
    assert max(map(len, read_source(tmp_path / "own.txt", "utf-8", from_gutenberg=False))) <= 2**16
    assert collect("own.txt", sha256=digest(served.decode())) == served.decode()


# One or several


TEXTS = st.text(CHARACTERS).filter(lambda text: text.strip(" \r\n\x1a").strip())


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_texts_are_in_the_order_given_with_a_blank_line_between(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode("utf-8-sig"))
    ends = [re.sub("\r\n|\r", "\n", text).rstrip("\n\x1a") + "\n" for text in texts]
    expected = "\n".join(ends)
    write(folder / "book.txt", list(map(str, paths)), kept=folder / "texts", sha256=digest(expected))
    assert (folder / "book.txt").read_bytes() == expected.encode()
    assert not (folder / "texts").exists()


def test_sources_of_every_kind_are_joined(collect: Collect, server: Server, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_bytes("\ufeffMine, naïve\r\nand short".encode())
    server.texts["/cache/epub/55/pg55.txt"] = f"{HEADER}Oz\n{FOOTER}"
    server.texts["/a.txt"] = "Served\n\n\n"
    text = "Served\n\nMine, naïve\nand short\n\nOz\n\nMine, naïve\nand short\n"
    assert collect(f"{server.url}/a.txt", "own.txt", "gutenberg:55", "own.txt", sha256=digest(text)) == text


def test_another_text_than_the_pinned_one_is_refused_with_both_digests(
    collect: Collect, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("One\n")
    found = digest("One\n")
    advice = "If you want this text, set data.sha256 to the digest found, or to null to accept any text."
    assert collect.refused("a.txt", sha256="0" * 64) == [
        "data.source (a.txt) does not give the pinned text.",
        f"  found:    {found} (4 characters)",
        f"  expected: {'0' * 64} (data.sha256)",
        advice,
        "If not, check the sources and their order.",
    ]
    server.texts["/b"], found = "Two\n", digest("One\n\nTwo\n")
    *lines, last = collect.refused("a.txt", f"{server.url}/b", sha256="0" * 64)
    assert lines == [
        "data.source (2 texts) does not give the pinned text.",
        f"  found:    {found} (9 characters)",
        f"  expected: {'0' * 64} (data.sha256)",
        advice,
    ]
    assert last == f"If not, check the sources and their order. To fetch every text again, delete {collect.kept}."


def test_the_tale_that_the_ways_out_name_is_there(collect: Collect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    assert 25_000 <= len(collect("tests/tale.txt")) <= 40_000


def test_a_file_name_that_is_not_utf_8_is_a_path_like_any_other(collect: Collect, tmp_path: Path) -> None:
    """It used to be a traceback: the name was encoded as UTF-8, for a copy that no file has."""
    (tmp_path / "books").mkdir()
    for name in (b"caf\xe9.txt", b"a.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path / "books") + b"/" + name)).write_text("Oz\n")
    assert collect(*expand(["books/*.txt"])) == "Oz\n\nOz\n"
    Path(os.fsdecode(os.fsencode(tmp_path / "books") + b"/caf\xe9.txt")).write_text("")
    assert collect.refused(*expand(["books/*.txt"]))[1].endswith(".txt: it is empty")


def test_the_encoding_is_the_servers_also_when_the_copy_is_read_again(collect: Collect, server: Server) -> None:
    """The charset of Content-Type used to be ignored: a text in KOI8-R became Windows-1252."""
    server.texts |= {"/a": "Пётр".encode("koi8-r"), "/b": "Zoë\n".encode("utf-16-be"), "/c": "Zoë".encode()}
    server.types |= {"/a": 'text/plain; charset="KOI8-R"', "/b": "text/plain; charset=utf-16be", "/c": "text/plain"}
    urls = [f"{server.url}{path}" for path in server.texts]
    for _ in range(2):
        assert collect(*urls) == "Пётр\n\nZoë\n\nZoë\n"
        assert collect.encodings == ["koi8-r", "utf-16-be", "utf-8"]
    assert server.asked == ["/a", "/b", "/c"]
    assert collect(urls[0], encoding="cp866") == "Пётр".encode("koi8-r").decode("cp866") + "\n"


# Where a text comes from


def test_a_mirror_is_a_folder_or_a_server(collect: Collect, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "mirror/cache/epub/55/pg55.txt"
    file.parent.mkdir(parents=True)
    file.write_text(f"{HEADER}Oz\n{FOOTER}")
    for mirror in ("mirror", f"{tmp_path}/mirror/"):
        assert collect("gutenberg:55", mirror=mirror, sites=[]) == "Oz\n"
    file.write_text(f"{HEADER}Oz again\n{FOOTER}")
    assert collect("gutenberg:55", mirror="mirror", sites=[]) == "Oz again\n"
    server.texts["/cache/epub/54/pg54.txt"] = f"{HEADER}Tip\n{FOOTER}"
    assert collect("gutenberg:54", mirror=server.url, sites=[]) == "Tip\n"


@pytest.fixture
def nowhere() -> str:
    """A base URL at which nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def test_the_next_address_is_asked_when_one_gives_no_book(
    collect: Collect, server: Server, tmp_path: Path, nowhere: str
) -> None:
    damaged = tmp_path / "mirror/cache/epub/55/pg55.txt"
    damaged.parent.mkdir(parents=True)
    damaged.write_text(f"{HEADER}Oz\n")
    server.texts["/cache/epub/55/pg55.txt"] = f"{HEADER}Oz\n{FOOTER}"
    assert collect("gutenberg:55", mirror="mirror", sites=[nowhere, server.url]) == "Oz\n"


@pytest.mark.parametrize("count", [1, 2])
def test_a_text_is_fetched_once(collect: Collect, server: Server, count: int) -> None:
    server.texts |= {"/a": "A\n", "/b": "B\n", "/c": "C\n"}
    a, b, c = (f"{server.url}{path}" for path in server.texts)
    assert collect(*[a] * count) == collect(*[a] * count)
    assert server.asked == ["/a"]
    assert collect(c, b, a) == "C\n\nB\n\nA\n"
    assert server.asked == ["/a", "/c", "/b"]


def test_local_files_are_read_every_time(collect: Collect, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Old\n")
    collect("a.txt")
    (tmp_path / "a.txt").write_text("New\n")
    assert collect("a.txt") == "New\n"
    assert not collect.kept.exists()


def test_what_is_kept_is_what_was_served(collect: Collect, server: Server) -> None:
    """A stripped text would be older than the code that strips it."""
    server.texts["/cache/epub/55/pg55.txt"] = f"{HEADER}Oz\n{FOOTER}"
    collect("gutenberg:55")
    [kept] = collect.kept.glob("*.txt")
    assert kept.read_text() == server.texts["/cache/epub/55/pg55.txt"]


@pytest.mark.parametrize("damaged", [b"\0\0", b""])
def test_what_is_kept_and_damaged_since_is_fetched_again(collect: Collect, server: Server, damaged: bytes) -> None:
    """It used to fail for good, with the blame on the address."""
    server.texts |= {"/a": "A\n", "/b": "B\n"}
    a, b = f"{server.url}/a", f"{server.url}/b"
    collect(a, b)
    for kept in collect.kept.glob("*.txt"):
        kept.write_bytes(damaged)
    assert collect(a, b) == "A\n\nB\n"
    assert server.asked == ["/a", "/b"] * 2


def test_two_processes_ask_once_for_a_text(collect: Collect, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers of DVC's queue used to fetch all texts each, side by side."""
    server.texts |= {"/a": "A\n", "/b": "B\n"}
    printed: Queue[str] = Queue()
    monkeypatch.setattr("charlm.text.collection._QUICK", 0.0)
    monkeypatch.setattr("charlm.text.collection.click.echo", lambda message, **_: printed.put(message))
    collect.kept.mkdir()
    with ThreadPoolExecutor() as pool:
        with FileLock(collect.kept / ".lock"):
            waiting = pool.submit(collect, f"{server.url}/a", f"{server.url}/b")
            assert printed.get() == f"Another process fetches texts to {collect.kept}; waiting until it is done."
            assert server.asked == []
        assert waiting.result() == "A\n\nB\n"


# No text


def test_when_every_address_failed_each_is_listed_with_the_ways_out(
    collect: Collect, server: Server, tmp_path: Path, nowhere: str
) -> None:
    path = "cache/epub/55/pg55.txt"
    lines = collect.refused("gutenberg:55", mirror="empty", sites=[nowhere, server.url])
    assert lines[:2] == [
        "No text came for data.source gutenberg:55:",
        f"  empty/{path}: No such file or directory, in the folder {tmp_path}",
    ]
    assert lines[2].startswith(f"  {nowhere}/{path}: no connection: ")
    assert lines[3] == (
        f"  {server.url}/{path}: 404 Not Found: there is no such file: check the address, or the number of the book"
    )
    assert lines[4:] == [
        "Expected a Project Gutenberg page (https://www.gutenberg.org/ebooks/22566, or gutenberg:22566), the http(s) "
        "address of a text, the path of a text file, a pattern of such paths (books/*.txt), or a list of these.",
        "Ways out:",
        "  use a mirror, a base URL or a folder with cache/epub/<number>/pg<number>.txt in it:",
        "    CHARLM_GUTENBERG_MIRROR=<URL or folder> dvc repro",
        "  use a file with the text alone (and -S data.sha256=null if it is not the pinned text):",
        "    dvc exp run -S data.source=<path>",
        "  use the tale that comes with charlm:",
        "    dvc exp run -S data.source=tests/tale.txt -S data.sha256=null",
    ]


def test_bad_texts_are_all_listed_and_the_good_ones_not_fetched_again(
    collect: Collect, server: Server, tmp_path: Path
) -> None:
    server.texts |= {"/a": "A\n", "/cut": HEADER + "Once\n", "/b": "B\n"}
    (tmp_path / "folder").mkdir()
    good, bad = [f"{server.url}/a", f"{server.url}/b"], [f"{server.url}/none", f"{server.url}/cut"]
    local = ["own*.txt", f"{tmp_path}/own.txt", "folder"]
    lines = collect.refused("ftp://example.org/a", good[0], *bad, *local, good[1], good[1], bad[0])
    assert lines[:7] == [
        "No text came for 6 of the 8 sources in data.source:",
        "  ftp://example.org/a: ftp:// is not supported",
        f"  {bad[0]}: 404 Not Found: there is no such file: check the address, or the number of the book",
        f"  {bad[1]}: it has a *** START OF line and no *** END OF, as when it was cut short",
        f"  own*.txt: No such file or directory, in the folder {tmp_path}",
        f"  {tmp_path}/own.txt: No such file or directory",
        f"  folder: Is a directory, in the folder {tmp_path}",
    ]
    assert lines[8:] == [
        "Ways out:",
        f"  fix these sources, or remove them (what was fetched is kept in {collect.kept} and not fetched again):",
        "    dvc repro",
        "  use the tale that comes with charlm:",
        "    dvc exp run -S data.source=tests/tale.txt -S data.sha256=null",
    ]
    assert server.asked == ["/a", "/none", "/cut", "/b", "/none"]
    server.texts["/none"] = "Now there\n"
    server.texts["/cut"] = f"{HEADER}Once\n{FOOTER}"
    assert collect(good[0], *bad, good[1]) == "A\n\nNow there\n\nOnce\n\nB\n"
    assert server.asked[5:] == ["/none", "/cut"]


# What is shown


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that lets every reading of the clock take so many seconds."""

    def slow(seconds: float) -> None:
        ticks = count()
        monkeypatch.setattr("charlm.text.collection.time.monotonic", lambda: next(ticks) * seconds)

    return slow


@pytest.mark.parametrize(("terminal", "seconds", "shown"), [("1", 3, True), ("1", 0.1, False), ("0", 3, False)])
def test_a_terminal_shows_a_bar_over_the_texts_when_they_take_long(
    collect: Collect,
    tmp_path: Path,
    slow: Callable[[float], None],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    terminal: str,
    seconds: float,
    shown: bool,
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "a.txt").write_text("A\n")
    slow(seconds)
    collect("a.txt", "a.txt", "a.txt")
    out, err = capfd.readouterr()
    assert out == ""
    assert bool(re.search(r"a\.txt .*2/3", err)) == shown
