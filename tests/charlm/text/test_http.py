"""Downloads from a real HTTP server on this machine, one misbehaviour at a time."""

import base64
import gzip
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import CharlmError, RefusedError
from charlm.text.http import BusyError, Client, Limits, authorizations, charset_of, pause, redirect, retry_after

pytestmark = pytest.mark.usefixtures("plainly")

TEXT = b"Once there was a text.\n" * 40


@dataclass(frozen=True)
class Reply:
    """What the server answers: it announces `length` bytes, and may stall before or within the body."""

    status: int = 200
    body: bytes = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    stalls: str = ""


class Server(ThreadingHTTPServer):
    """Answers each path with its replies one after the other, and with the last one from then on."""

    daemon_threads = False  # so that closing the server waits for every answer

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: dict[str, list[Reply]] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.authorizations: list[str | None] = []
        self.released = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def put(self, path: str, *replies: Reply) -> str:
        self.replies[path] = list(replies)
        return self.url(path)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers["User-Agent"]))
        self.server.authorizations.append(self.headers["Authorization"])
        replies = self.server.replies[self.path]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        with suppress(ConnectionError):
            self.answer(reply)

    def answer(self, reply: Reply) -> None:
        if reply.stalls == "before":
            self.server.released.wait(10)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
        self.end_headers()
        self.wfile.write(reply.body)
        if reply.stalls == "within":
            self.server.released.wait(10)

    def log_message(self, *args: object) -> None:
        """Keep stderr to what is tested."""


@pytest.fixture
def server(serving: Callable[..., Any]) -> Iterator[Server]:
    with Server() as server, serving(server):
        yield server
        server.released.set()


class Fetched:
    """Downloads into its own folder and lists the waits, which take no time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.waits: list[float] = []

    def __call__(self, url: str, limits: Limits | None = None) -> bytes:
        to = self.folder / "book"
        Client(limits, sleep=self.waits.append).download(url, to)
        return to.read_bytes()

    def refused(self, url: str, limits: Limits | None = None) -> str:
        """The message of the refusal, after which the folder must be as it was."""
        (self.folder / "book").write_bytes(b"old")
        with pytest.raises(RefusedError) as refused:
            self(url, limits)
        assert {path.name: path.read_bytes() for path in self.folder.iterdir()} == {"book": b"old"}
        return refused.value.message


@pytest.fixture
def fetched(tmp_path: Path) -> Fetched:
    return Fetched(tmp_path)


def test_one_request_that_names_the_project_brings_the_bytes(server: Server, fetched: Fetched) -> None:
    assert fetched(server.put("/book", Reply())) == TEXT
    [(method, path, agent)] = server.requests
    assert (method, path) == ("GET", "/book")
    assert agent.startswith(f"charlm/{version('charlm')} ")


def test_nothing_is_printed_without_a_terminal(
    server: Server, fetched: Fetched, capfd: pytest.CaptureFixture[str]
) -> None:
    fetched(server.put("/book", Reply()))
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_a_bar_on_stderr_alone(
    server: Server, fetched: Fetched, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    fetched(server.put("/book", Reply()))
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "127.0.0.1" in shown.err
    assert f"{len(TEXT)}/{len(TEXT)} bytes" in shown.err


def test_a_compressed_body_is_unpacked(server: Server, fetched: Fetched) -> None:
    packed = Reply(body=gzip.compress(TEXT), headers={"Content-Encoding": "gzip"})
    assert fetched(server.put("/book", packed)) == TEXT


def test_redirects_are_followed(server: Server, fetched: Fetched) -> None:
    server.put("/books/new", Reply())
    server.put("/books/old", Reply(301, b"moved", {"Location": "new"}))
    assert fetched(server.put("/", Reply(302, b"", {"Location": "/books/old"}))) == TEXT
    assert [path for _, path, _ in server.requests] == ["/", "/books/old", "/books/new"]


def test_a_circle_of_redirects_is_refused(server: Server, fetched: Fetched) -> None:
    url = server.put("/round", Reply(302, b"", {"Location": "/round"}))
    assert fetched.refused(url) == f"more than 5 redirects, the last one to {url}"
    assert len(server.requests) == 6


def test_a_redirect_off_the_web_is_refused(server: Server, fetched: Fetched) -> None:
    url = server.put("/", Reply(302, b"", {"Location": "file:///etc/hostname"}))
    assert fetched.refused(url) == "redirects to file:///etc/hostname, which is neither http nor https"


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        ("https://a.org/x/y", "z", "https://a.org/x/z"),
        ("https://a.org/x", "//b.org/z", "https://b.org/z"),
        ("http://a.org/x", "https://a.org/x", "https://a.org/x"),
        ("http://a.org/x", "http://b.org/x", "http://b.org/x"),
    ],
)
def test_redirect_gives_the_whole_address(url: str, location: str, target: str) -> None:
    assert redirect(url, location) == target


def test_redirect_refuses_to_go_from_https_to_http() -> None:
    with pytest.raises(RefusedError) as refused:
        redirect("https://a.org/x", "http://a.org/x")
    assert refused.value.message == (
        "redirects from https down to http://a.org/x, where the text could be changed on its way"
    )


@given(st.from_regex(r"\A[ \t]?([a-zA-Z]{0,5}:)?/{0,3}[a-z.\[\]@:\\]{0,8}/?\Z") | st.text())
def test_no_location_leads_off_https(location: str) -> None:
    with suppress(RefusedError, ValueError):
        assert urlsplit(redirect("https://a.org/x", location)).scheme == "https"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            Reply(403),
            "403 Forbidden: the site turns this program or this network away: wait, or use another copy",
        ),
        (Reply(404), "404 Not Found: there is no such file: check the address, or the number of the book"),
        (Reply(206), "206 Partial Content: expected 200 and a text"),
        (Reply(body=b""), "200 OK, and an empty body"),
    ],
)
def test_an_answer_that_is_no_text_is_refused_at_once(
    server: Server, fetched: Fetched, reply: Reply, message: str
) -> None:
    assert fetched.refused(server.put("/book", reply)) == message
    assert (len(server.requests), fetched.waits) == (1, [])


@pytest.mark.parametrize(
    ("reply", "title"),
    [
        (Reply(body=b"<!DOCTYPE html><html><head><title>Just a moment...</title>"), ' ("Just a moment...")'),
        (
            Reply(body=b"\xef\xbb\xbf\r\n <!-- 1 -->\n<HTML lang='en'>", headers={"Content-Type": "text/plain"}),
            "",
        ),
        (Reply(body=b"Verify that you are human", headers={"Content-Type": "text/html; charset=utf-8"}), ""),
    ],
)
def test_an_html_page_is_not_taken_for_a_text(server: Server, fetched: Fetched, reply: Reply, title: str) -> None:
    assert fetched.refused(server.put("/book", reply)) == (
        f"an HTML page{title} instead of a text, perhaps a captcha or an error: look at it in a browser"
    )


def test_a_text_that_speaks_of_html_is_a_text(server: Server, fetched: Fetched) -> None:
    text = b"In the beginning was <html>.\n"
    assert fetched(server.put("/book", Reply(body=text, headers={"Content-Type": "text/plain"}))) == text


def test_a_body_cut_short_is_refused(server: Server, fetched: Fetched) -> None:
    message = fetched.refused(server.put("/book", Reply(length=len(TEXT) + 1)))
    assert message.startswith("the answer was cut short: ")
    assert f"received {len(TEXT)} bytes, expected {len(TEXT) + 1}" in message


def test_a_damaged_compressed_body_is_refused(server: Server, fetched: Fetched) -> None:
    message = fetched.refused(server.put("/book", Reply(headers={"Content-Encoding": "gzip"})))
    assert message.startswith("no usable answer: DecodingError: ")


def test_a_busy_server_is_asked_again_after_two_seconds(
    server: Server, fetched: Fetched, capfd: pytest.CaptureFixture[str]
) -> None:
    url = server.put("/book", Reply(503, b"later"), Reply())
    assert fetched(url) == TEXT
    assert fetched.waits == [2.0]
    assert capfd.readouterr() == ("", f"{url}: 503 Service Unavailable; trying again in 2 s\n")


@pytest.mark.parametrize(("asked", "waited"), [("7", 7.0), ("0", 2.0), ("soon", 2.0), ("60", 60.0)])
def test_retry_after_is_waited_for(server: Server, fetched: Fetched, asked: str, waited: float) -> None:
    url = server.put("/book", Reply(429, b"", {"Retry-After": asked}), Reply())
    assert fetched(url) == TEXT
    assert fetched.waits == [waited]


def test_a_server_that_asks_for_an_hour_is_left_alone(server: Server, fetched: Fetched) -> None:
    url = server.put("/book", Reply(429, b"", {"Retry-After": "3600"}))
    assert fetched.refused(url) == (
        "429 Too Many Requests, and it asks for 3600 s, more than the 60 s charlm waits: try again later"
    )
    assert (len(server.requests), fetched.waits) == (1, [])


def test_a_server_that_stays_busy_is_given_up_after_three_attempts(server: Server, fetched: Fetched) -> None:
    url = server.put("/book", Reply(503, b"later"))
    assert fetched.refused(url) == "503 Service Unavailable, 3 times in a row: try again later"
    assert (len(server.requests), fetched.waits) == (3, [2.0, 4.0])


@pytest.mark.parametrize("where", ["before", "within"])
def test_a_stall_is_tried_again_from_the_start(server: Server, fetched: Fetched, where: str) -> None:
    stalled = Reply(body=b"old bytes", length=len(TEXT), stalls=where)
    assert fetched(server.put("/book", stalled, Reply()), Limits(read=0.2)) == TEXT
    assert fetched.waits == [2.0]


def test_a_server_that_stalls_for_good_is_given_up(server: Server, fetched: Fetched) -> None:
    url = server.put("/book", Reply(stalls="before"))
    limits = Limits(read=0.1, attempts=2)
    assert fetched.refused(url, limits) == "connected, then nothing for 0.1 s, 2 times in a row: try again later"


def test_a_closed_port_is_refused_at_once(fetched: Fetched) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert fetched.refused(f"http://127.0.0.1:{port}/book").startswith("no connection: ")
    assert fetched.waits == []


def test_a_server_without_tls_is_refused_at_once_over_https(server: Server, fetched: Fetched) -> None:
    url = server.put("/book", Reply()).replace("http://", "https://")
    assert fetched.refused(url).startswith("no connection: ")
    assert (server.requests, fetched.waits) == ([], [])


def test_packets_that_vanish_are_waited_for_once(fetched: Fetched) -> None:
    """A full queue of connections drops further ones, as a firewall does."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/book"
        assert fetched.refused(url, Limits(connect=0.2)) == "no connection within 0.2 s"
    assert fetched.waits == []


def test_a_name_server_that_never_answers_is_waited_for_once(fetched: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lookup of a name has no time limit: with packets that vanish it took 20 s for each address."""
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answered.wait(10))
    message = fetched.refused("http://gutenberg.invalid/book", Limits(connect=0.1))
    answered.set()
    assert message == "no connection: the name server did not answer for gutenberg.invalid within 0.1 s"
    assert fetched.waits == []


@pytest.mark.parametrize("url", ["http://[::1/", "ftp://127.0.0.1/book", "http://127.0.0.1/\x01"])
def test_an_address_that_cannot_be_asked_is_refused(fetched: Fetched, url: str) -> None:
    assert fetched.refused(url).startswith("no usable answer: ")


# Several downloads


def test_requests_to_one_host_are_two_seconds_apart_even_after_a_refusal(server: Server, tmp_path: Path) -> None:
    waits: list[float] = []
    client = Client(sleep=waits.append)
    client.download(server.put("/a", Reply()), tmp_path / "a")
    with pytest.raises(RefusedError):
        client.download(server.put("/none", Reply(404)), tmp_path / "none")
    client.download(server.put("/b", Reply()), tmp_path / "b")
    assert len(waits) == 2
    assert all(1 < wait <= 2 for wait in waits)


def test_different_hosts_do_not_wait_for_each_other(
    server: Server, serving: Callable[..., Any], tmp_path: Path
) -> None:
    waits: list[float] = []
    client = Client(sleep=waits.append)
    with Server() as other, serving(other):
        for host in (server, other):
            client.download(host.put("/book", Reply()), tmp_path / "book")
    assert waits == []


@pytest.mark.parametrize("reply", [Reply(403), Reply(429), Reply(503), Reply(429, headers={"Retry-After": "3600"})])
def test_a_host_that_turns_charlm_away_is_not_asked_for_the_next_text(
    server: Server, tmp_path: Path, reply: Reply
) -> None:
    """It used to be asked for each, two seconds apart."""
    client = Client(sleep=lambda _: None)
    with pytest.raises(RefusedError):
        client.download(server.put("/a", reply), tmp_path / "a")
    asked = len(server.requests)
    with pytest.raises(RefusedError) as refused:
        client.download(server.put("/b", Reply()), tmp_path / "b")
    host = server.url("").removeprefix("http://")
    assert refused.value.message == f"not asked, because {host} turned charlm away a moment ago"
    assert len(server.requests) == asked


@pytest.mark.parametrize("status", [404, 500])
def test_a_host_that_fails_with_one_text_is_asked_for_the_next(server: Server, tmp_path: Path, status: int) -> None:
    client = Client(sleep=lambda _: None)
    with pytest.raises(RefusedError):
        client.download(server.put("/a", Reply(status)), tmp_path / "a")
    client.download(server.put("/b", Reply()), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == TEXT


# What Retry-After says


NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0.0),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("-5", 0.0),
        ("1.5e3", 0.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 12:00:30 -0000", 30.0),
        ("Thu, 01 Jan 2026 13:00:30 +0100", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("tomorrow", 0.0),
    ],
)
def test_retry_after_reads_seconds_and_dates(value: str | None, seconds: float) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text() | st.from_regex(r"\A[A-Z][a-z]{2}, [0-9]{1,3} Jan [0-9]{1,6} [0-9:]{1,9} [+-][0-9]{1,8}\Z"))
def test_no_retry_after_is_an_error(value: str) -> None:
    assert retry_after(value, NOW) >= 0


@given(st.integers(1, 4), st.floats(0, 60))
def test_a_pause_is_never_shorter_than_two_seconds_or_what_was_asked(attempt: int, asked: float) -> None:
    assert pause(attempt, BusyError("busy", asked), Limits(attempts=5)) >= max(2.0, asked)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ALL_PROXY", "socks5://ann:s3cret@127.0.0.1:9", "ALL_PROXY cannot be used: ImportError: "),
        ("https_proxy", "gopher://ann:s3cret@127.0.0.1:9", "https_proxy cannot be used: ValueError: "),
        ("SSL_CERT_FILE", "/nowhere.pem", "SSL_CERT_FILE cannot be used: FileNotFoundError: "),
        ("NO_PROXY", "localhost,[::1]", "NO_PROXY cannot be used: InvalidURL: Invalid port: "),
    ],
)
def test_settings_that_no_client_accepts_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, message: str
) -> None:
    """They used to be a traceback, then the message of a library that names no variable: "Invalid port"."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with pytest.raises(RefusedError) as refused:
        Client().download("https://127.0.0.1:9/book", tmp_path / "book")
    assert refused.value.message.startswith(message)
    assert "s3cret" not in refused.value.message


# Credentials


BASIC = f"Basic {base64.b64encode(b'ann:s3cret').decode()}"


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A .netrc with a password for this machine."""
    file = tmp_path / "home/.netrc"
    file.parent.mkdir()
    file.write_text("machine 127.0.0.1 login ann password s3cret\n")
    monkeypatch.setenv("HOME", str(file.parent))
    return file


def test_a_password_comes_from_netrc_and_a_header_from_its_variable(
    server: Server, serving: Callable[..., Any], tmp_path: Path, netrc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only place for it used to be the address, which is recorded."""
    url, host = server.put("/book", Reply()), server.url("").removeprefix("http://")
    with Server() as other, serving(other):
        other.put("/book", Reply())
        away = server.put("/away", Reply(302, b"", {"Location": other.url("/book")}))
        for header in ({}, {host: "Bearer abc"}):
            client = Client(sleep=lambda _: None, authorization=header)
            for address in (url, away, other.url("/book")):
                client.download(address, tmp_path / "book")
        assert server.authorizations == [BASIC] * 2 + ["Bearer abc"] * 2
        assert other.authorizations == [None, BASIC] * 2  # a redirect takes no credentials to another place
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    Client().download(url, tmp_path / "book")
    assert server.authorizations[-1] is None


def test_a_mirror_may_have_its_password_in_its_variable_which_no_message_shows(
    server: Server, fetched: Fetched, netrc: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fetched.folder = netrc.parent / "books"
    fetched.folder.mkdir()
    url = server.put("/book", Reply(503), Reply(403)).replace("//", "//bob:s3cret@")
    message = fetched.refused(url)
    assert server.authorizations[0] == f"Basic {base64.b64encode(b'bob:s3cret').decode()}"
    assert "s3cret" not in message + "".join(capfd.readouterr())
    with pytest.raises(RefusedError, match=r"^redirects from https down to http://b\.org/x, where"):
        redirect("https://a.org/x", "http://bob:s3cret@b.org/x")


def test_what_is_wrong_with_credentials_is_reported_without_them(fetched: Fetched, netrc: Path) -> None:
    fetched.folder = netrc.parent / "books"
    fetched.folder.mkdir()
    netrc.write_text("machine 127.0.0.1\ns3cret\n")
    assert fetched.refused("http://127.0.0.1:9/book") == f"{netrc} is not what a .netrc file contains"
    assert authorizations(" Example.org Bearer abc\n\nb.org:80 Basic x==\n") == {
        "example.org": "Bearer abc",
        "b.org:80": "Basic x==",
    }
    assert authorizations("") == {}
    for text in ("s3cret", "https://example.org Bearer s3cret"):
        with pytest.raises(CharlmError) as refused:
            authorizations(text)
        assert refused.value.message.startswith("CHARLM_AUTHORIZATION has a line that is not a host and a header.\n")
        assert "s3cret" not in refused.value.message


def test_what_the_server_says_of_the_encoding_is_kept_with_the_text(server: Server, fetched: Fetched) -> None:
    book = fetched.folder / "book"
    for reply, charset in ((Reply(headers={"Content-Type": "text/plain; charset=KOI8-R"}), "koi8-r"), (Reply(), None)):
        assert charset_of(book) is None
        fetched(server.put("/book", reply))
        assert charset_of(book) == charset
        book.with_suffix(".charset").unlink()
