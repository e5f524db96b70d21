"""Several texts as one: patterns, what is fetched and what is not, and one bad text among good ones."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from charlm.text import gutenberg
from charlm.text.collection import MissingFilesError, ShelfDigestError, ShelfError, expand, join, require_all, write
from charlm.text.http import Turns

HEADER = "*** START OF THE PROJECT GUTENBERG EBOOK IT ***\n\n"
FOOTER = "\n*** END OF THE PROJECT GUTENBERG EBOOK IT ***\n"

pytestmark = pytest.mark.usefixtures("plainly")


class Server(ThreadingHTTPServer):
    """Serves `texts` by their path, 404 for any other, and lists the paths that it was asked for."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.texts: dict[str, str] = {}
        self.asked: list[str] = []
        self.refused, self.code = "", 403
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path not in self.server.texts or self.path == self.server.refused:
            self.send_error(self.server.code if self.path == self.server.refused else 404)
            return
        body = self.server.texts[self.path].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep stderr to what is tested."""


@pytest.fixture
def server(serving: Callable[..., Any]) -> Iterator[Server]:
    with Server() as server, serving(server):
        yield server


class Shelf:
    """Writes texts to a file, with `waits` that take no time, and keeps what it fetches."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.to, self.kept = folder / "book.txt", folder / "texts"
        self.server = server
        self.waits: list[float] = []

    def __call__(self, *sources: str, sha256: str | None = None) -> str:
        turn = Turns(sleep=self.waits.append)
        serve = partial(gutenberg.serve, sites=[self.server.url], sleep=lambda _: None, turn=turn)
        write(self.to, sources, serve=serve, kept=self.kept, sha256=sha256)
        return self.to.read_text(encoding="utf-8")


@pytest.fixture
def shelf(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.chdir(tmp_path)
    return Shelf(tmp_path, server)


# What a person names


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
    ("source", "sources"),
    [
        ("books/*.txt", ["books/a.txt", "books/b.txt", "books/x[1].txt"]),
        ("books/[ab].txt", ["books/a.txt", "books/b.txt"]),
        ("books/?.md", "books/d.md"),
        ("**/*d.*", "books/d.md"),
        (".ven?/*.txt", ".ven?/*.txt"),
        (".venv/*.txt", ".venv/e.txt"),
        ("**/?.txt", ["books/a.txt", "books/b.txt", "books/more/c.txt"]),
        (["books/d.md", "books/[ab].*", "gutenberg:55"], ["books/d.md", "books/a.txt", "books/b.txt", "gutenberg:55"]),
        (["books/b.txt", "books/a.txt", "books/b.txt"], ["books/b.txt", "books/a.txt", "books/b.txt"]),
        (["books/z*.txt"], "books/z*.txt"),
        # A single one, as it is.
        ("books/a.txt", "books/a.txt"),
        ("books/x[1].txt", "books/x[1].txt"),
        ("books/z*.txt", "books/z*.txt"),
        ("https://example.org/a?b=*", "https://example.org/a?b=*"),
    ],
)
def test_a_pattern_stands_for_the_files_that_match_in_order(
    books: Path, source: str | Sequence[str], sources: str | list[str]
) -> None:
    assert expand(source) == sources


def test_a_pattern_may_begin_anywhere(books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absolute = str(books / "books/?.txt")
    expected = [str(books / "books/a.txt"), str(books / "books/b.txt")]
    monkeypatch.chdir(books / "books/more")
    assert expand(absolute) == expected
    assert expand("../?.txt") == ["../a.txt", "../b.txt"]
    assert expand("../?.txt", books / "books/more") == ["../a.txt", "../b.txt"]


@pytest.mark.parametrize("source", ["books/**.txt", "/*" * 3000])
def test_what_looks_like_a_pattern_and_is_none_is_told(source: str) -> None:
    with pytest.raises(gutenberg.SourceError, match="it is no pattern: "):
        expand(source)


def test_files_of_a_pattern_that_an_experiment_did_not_get_are_told(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc exp run --temp` used to learn from those of the files that git tracks, and say nothing."""
    part = tmp_path / "part/books"
    part.mkdir(parents=True)
    (part / "b.txt").write_text("Text\n")
    monkeypatch.chdir(part.parent)
    require_all("books/b*.txt", books)
    require_all(["books/b.txt", "gutenberg:55"], books)
    with pytest.raises(MissingFilesError) as err:
        require_all(["gutenberg:55", "books/[ab].txt"], books)
    assert err.value.message == (
        f"data.source matches 1 more files in {books} than in the folder of this experiment: books/a.txt.\n"
        "DVC brings along what git tracks: `git add` them, or run without --temp and --queue."
    )


# One text of several


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)))
def test_texts_are_joined_by_a_line_end(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    to = tmp_path_factory.mktemp("joined") / "book.txt"
    whole = "\n".join(texts)
    assert join(iter(texts), to) == (hashlib.sha256(whole.encode()).hexdigest(), len(whole))
    assert to.read_bytes() == whole.encode()


def test_texts_stand_in_the_order_given_with_a_blank_line_between(shelf: Shelf, server: Server, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_bytes("\ufeffMine, naïve\r\nand short".encode())
    server.texts["/cache/epub/55/pg55.txt"] = f"{HEADER}Oz\n{FOOTER}"
    server.texts["/a.txt"] = "Served\n\n\n"
    text = "Served\n\nMine, naïve\nand short\n\nOz\n\nMine, naïve\nand short\n"
    sources = (f"{server.url}/a.txt", "own.txt", "gutenberg:55", "own.txt")
    assert shelf(*sources, sha256=hashlib.sha256(text.encode()).hexdigest()) == text


def test_another_whole_than_the_pinned_one_is_refused_with_both_digests(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One\n")
    found = hashlib.sha256(b"One\n\nOne\n").hexdigest()
    with pytest.raises(ShelfDigestError) as refused:
        shelf("a.txt", "a.txt", sha256="0" * 64)
    assert refused.value.message == (
        "The texts of data.source together are others than the pinned ones.\n"
        f"  found:    {found} (9 characters)\n"
        f"  expected: {'0' * 64} (data.sha256)\n"
        "If you want these texts, set data.sha256 to the digest found, or to null to accept any.\n"
        f"If not, look at data.source and its order; to have every text fetched anew, delete {shelf.kept}."
    )


# Politely, and once


def test_a_text_is_fetched_once_however_the_list_grows(shelf: Shelf, server: Server) -> None:
    server.texts |= {"/a": "A\n", "/b": "B\n", "/c": "C\n"}
    a, b, c = (f"{server.url}{path}" for path in server.texts)
    assert shelf(a, b, a) == "A\n\nB\n\nA\n"
    assert shelf(c, b, a) == "C\n\nB\n\nA\n"
    assert server.asked == ["/a", "/b", "/c"]


def test_files_of_ones_own_and_of_a_mirror_are_read_anew(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Old\n")
    shelf("a.txt")
    (tmp_path / "a.txt").write_text("New\n")
    assert shelf("a.txt") == "New\n"
    assert not shelf.kept.exists()


def test_what_is_kept_is_what_was_served(shelf: Shelf, server: Server) -> None:
    """Stripped of its boilerplate it would outlive the code that strips it."""
    server.texts["/cache/epub/55/pg55.txt"] = f"{HEADER}Oz\n{FOOTER}"
    shelf("gutenberg:55")
    [kept] = shelf.kept.glob("*.txt")
    assert kept.read_text() == server.texts["/cache/epub/55/pg55.txt"]


def test_requests_to_one_host_are_two_seconds_apart_even_after_a_refusal(shelf: Shelf, server: Server) -> None:
    server.texts |= {"/a": "A\n", "/b": "B\n"}
    with pytest.raises(ShelfError):
        shelf(*(f"{server.url}{path}" for path in ("/a", "/none", "/b")))
    assert server.asked == ["/a", "/none", "/b"]
    assert len(shelf.waits) == 2
    assert all(0 < wait <= 2 for wait in shelf.waits)


def test_different_hosts_do_not_wait_for_each_other() -> None:
    waits: list[float] = []
    turn = Turns(sleep=waits.append)
    for url in ("https://a.org/1", "https://b.org/1", "https://a.org:444/1"):
        with turn(url):
            assert waits == []


# A bad one among them


def test_bad_texts_are_all_named_and_the_good_ones_not_fetched_again(
    shelf: Shelf, server: Server, tmp_path: Path
) -> None:
    shelf.to.write_text("old")
    server.texts |= {"/a": "A\n", "/cut": HEADER + "Once\n", "/b": "B\n"}
    good, bad = [f"{server.url}/a", f"{server.url}/b"], [f"{server.url}/none", f"{server.url}/cut"]
    with pytest.raises(ShelfError) as refused:
        shelf("ftp://example.org/a", good[0], *bad, "own*.txt", good[1])
    assert refused.value.message == (
        "4 of the 6 texts of data.source did not come:\n"
        "  ftp://example.org/a: ftp:// is not supported\n"
        f"  {bad[0]}: 404 Not Found: it has no such file: check the address, or the number of the book\n"
        f"  {bad[1]}: it has a *** START OF line and no *** END OF, as when it was cut short\n"
        f"  own*.txt: no such file, looked for from the folder {tmp_path}\n"
        "Mend these in data.source, or leave them out, and run again: what else was fetched is kept in "
        f"{shelf.kept}, and not asked for a second time."
    )
    assert server.asked == ["/a", "/none", "/cut", "/b"]
    assert shelf.to.read_text() == "old"
    server.texts["/none"] = "Now there\n"
    server.texts["/cut"] = f"{HEADER}Once\n{FOOTER}"
    assert shelf(good[0], *bad, good[1]) == "A\n\nNow there\n\nOnce\n\nB\n"
    assert server.asked[4:] == ["/none", "/cut"]


def test_what_is_kept_and_damaged_since_is_fetched_again(shelf: Shelf, server: Server) -> None:
    """It used to fail for good, with the blame on the address."""
    server.texts |= {"/a": "A\n", "/b": "B\n"}
    a, b = f"{server.url}/a", f"{server.url}/b"
    shelf(a, b)
    for kept in shelf.kept.glob("*.txt"):
        kept.write_bytes(b"\0\0")
    assert shelf(a, b) == "A\n\nB\n"
    assert server.asked == ["/a", "/b"] * 2


def test_host_that_turns_charlm_away_is_not_asked_for_the_next_text(shelf: Shelf, server: Server) -> None:
    """It used to be asked for each, two seconds apart."""
    server.texts |= {"/a": "A\n", "/b": "B\n"}
    server.refused = "/a"
    with pytest.raises(ShelfError) as refused:
        shelf(*(f"{server.url}{path}" for path in ("/a", "/b")))
    assert server.asked == ["/a"]
    host = server.url.removeprefix("http://")
    assert (
        f"  {server.url}/a: 403 Forbidden: the site turns this program or this network away: " in refused.value.message
    )
    assert f"  {server.url}/b: not asked, as {host} turned charlm away a moment ago\n" in refused.value.message


def test_host_that_fails_with_one_text_is_asked_for_the_next(shelf: Shelf, server: Server) -> None:
    server.texts |= {"/a": "A\n", "/b": "B\n"}
    server.refused, server.code = "/a", 500
    with pytest.raises(ShelfError, match=r"^1 of the 2 texts"):
        shelf(*(f"{server.url}{path}" for path in ("/a", "/b")))
    assert server.asked == ["/a"] * 3 + ["/b"]


def test_two_processes_ask_once_for_a_text(shelf: Shelf, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers of DVC's queue used to fetch all texts each, side by side."""
    server.texts |= {"/a": "A\n", "/b": "B\n"}
    told: Queue[str] = Queue()
    monkeypatch.setattr("charlm.text.collection._QUICK", 0.0)
    monkeypatch.setattr("charlm.text.collection.click.echo", lambda message, **_: told.put(message))
    shelf.kept.mkdir()
    with ThreadPoolExecutor() as pool:
        with FileLock(shelf.kept / ".lock"):
            waiting = pool.submit(shelf, f"{server.url}/a", f"{server.url}/b")
            assert told.get() == f"Another process fetches texts to {shelf.kept}; waiting until it is done."
            assert server.asked == []
        assert waiting.result() == "A\n\nB\n"


# What is shown


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that has every look at the shelf's clock take so many seconds."""

    def slow(seconds: float) -> None:
        ticks = count()
        monkeypatch.setattr("charlm.text.collection.time.monotonic", lambda: next(ticks) * seconds)

    return slow


@pytest.mark.parametrize(("terminal", "seconds", "shown"), [("1", 3, True), ("1", 0.1, False), ("0", 3, False)])
def test_a_terminal_shows_a_bar_over_the_texts_when_they_take_long(
    shelf: Shelf,
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
    shelf("a.txt", "a.txt", "a.txt")
    out, err = capfd.readouterr()
    assert out == ""
    assert bool(re.search(r"a\.txt .*2/3", err)) == shown
