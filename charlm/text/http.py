"""Download one file over HTTP with a polite GET: few retries, and never from https down to http.

It knows nothing of books: `charlm.text.collection` decides which addresses to ask and what to make of the bytes. It
does not resume a download, and limits neither its size nor its total time. Like pooch
(https://www.fatiando.org/pooch), it writes a complete file or none. Requests to one host are 2 s or more apart, as
https://www.gutenberg.org/policy/robot_access.html asks; only redirects are followed at once. Credentials come from
.netrc or a variable, not from addresses, and go to the host that they are for.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies

import click

from charlm.errors import CharlmError, RefusedError, without_password
from charlm.files import atomic_write, write_text

if TYPE_CHECKING:
    import httpx

USER_AGENT = f"charlm/{version('charlm')} (a character language model; one request a book)"

_MEANING: dict[int, str] = {
    HTTPStatus.FORBIDDEN: "the site turns this program or this network away: wait, or use another copy",
    HTTPStatus.NOT_FOUND: "there is no such file: check the address, or the number of the book",
}

_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|title|script)\b",
    re.IGNORECASE | re.DOTALL,
)
_SETTINGS = ("NO_PROXY", "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Environment variables that a client reads, in either case."""
_TITLE = re.compile(rb"<title[^>]*>\s*(.*?)\s*</title", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Limits:
    """How long a download may take and how often it may ask, in seconds and counts."""

    connect: float = 4.0
    read: float = 10.0
    attempts: int = 3
    first_wait: float = 2.0
    longest_wait: float = 60.0
    redirects: int = 5


class BusyError(RefusedError):
    """An address gave no text this time, but may give one later."""

    def __init__(self, found: str, asked: float = 0.0, *, host: bool = False) -> None:
        super().__init__(found)
        self.asked = asked  # seconds, from Retry-After
        self.host = host  # whether the reason applies to everything on the host


class TurnedAwayError(RefusedError):
    """A host gives nothing now, for a reason that applies to everything on it."""


class Client:
    """Downloads, with a rest between two from one host. A host that turned charlm away is not asked again."""

    def __init__(
        self,
        limits: Limits | None = None,
        sleep: Callable[[float], object] = time.sleep,
        authorization: Mapping[str, str] | None = None,
    ) -> None:
        """`authorization` is what the header of that name says to each host, `host` or `host:port`."""
        self._limits = limits or Limits()
        self._sleep = sleep
        self._authorization = authorization or {}
        self._ended: dict[str, float] = {}  # by host, on the monotonic clock
        self._away: set[str] = set()

    def download(self, url: str, to: Path) -> None:
        """GET `url` into the file `to`, which stays as it was if that fails; `charset_of` is what its server says.

        Raises RefusedError when no text comes, at once or, if the reason may pass (a stall, 429, 5xx), after
        `Limits.attempts`.
        """
        with _as_refusals(self._limits):
            host = urlsplit(url).netloc.rpartition("@")[2]
        if host in self._away:
            raise RefusedError(f"not asked, because {host} turned charlm away a moment ago")
        rest = self._ended.get(host, float("-inf")) + self._limits.first_wait - time.monotonic()
        if rest > 0:
            self._sleep(rest)
        try:
            self._try_to_download(url, to, self._authorization.get(host.lower()))
        except TurnedAwayError:
            self._away.add(host)
            raise
        finally:
            self._ended[host] = time.monotonic()

    def _try_to_download(self, url: str, to: Path, authorization: str | None) -> None:
        own = authorization or "@" in urlsplit(url).netloc  # a mirror's, from its variable
        with _client(self._limits, None if own else _netrc()) as client:
            if authorization:
                client.headers["Authorization"] = authorization  # httpx drops it where a redirect leaves the host
            for attempt in range(1, self._limits.attempts + 1):
                try:
                    with atomic_write(to) as temporary, _as_refusals(self._limits):
                        charset = _get(client, url, temporary)
                        write_text(_charset_file(to), charset or "")
                    return
                except BusyError as busy:
                    seconds = pause(attempt, busy, self._limits)
                    click.echo(f"{without_password(url)}: {busy.message}; trying again in {seconds:.0f} s", err=True)
                    self._sleep(seconds)


def charset_of(path: Path) -> str | None:
    """The charset that the server named for what was downloaded to `path`, if it did."""
    file = _charset_file(path)
    return (file.read_text(encoding="utf-8") if file.is_file() else "") or None


def _charset_file(path: Path) -> Path:
    return path.with_suffix(".charset")


def authorizations(text: str) -> dict[str, str]:
    """Headers by host from lines of the form `host header`; CharlmError, without their content, for any other."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    if not all(len(line) == 2 and "/" not in line[0] for line in lines):
        raise CharlmError(
            "CHARLM_AUTHORIZATION has a line that is not a host and a header.",
            "Expected a host, a space and the value of its Authorization header: `example.org Bearer abc`.",
        )
    return {host.lower(): header.strip() for host, header in lines}


def pause(attempt: int, busy: BusyError, limits: Limits) -> float:
    """Seconds to wait after the failed `attempt` (the first is 1): doubled each time, never less than asked.

    Raises RefusedError after the last attempt, or if the server asks for more than `limits.longest_wait`.
    """
    if attempt >= limits.attempts:
        error = TurnedAwayError if busy.host else RefusedError
        raise error(f"{busy.message}, {attempt} times in a row: try again later") from busy
    if busy.asked > limits.longest_wait:
        raise TurnedAwayError(
            f"{busy.message}, and it asks for {busy.asked:.0f} s, more than the "
            f"{limits.longest_wait:.0f} s charlm waits: try again later"
        ) from busy
    return float(max(limits.first_wait * 2 ** (attempt - 1), busy.asked))


def retry_after(value: str | None, now: datetime) -> float:
    """Seconds that a Retry-After header asks for: a number or a date (RFC 9110, section 10.2.3).

    0 if there is none, if it is in the past or if it cannot be read.
    """
    if value is None:
        return 0.0
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())


def redirect(url: str, location: str) -> str:
    """The address that `url` redirects to with `location`.

    Raises RefusedError if that leads from https to http, or off the web.
    """
    target = urljoin(url, location)
    schemes = urlsplit(url).scheme, urlsplit(target).scheme
    if schemes == ("https", "http"):
        raise RefusedError(f"redirects from https down to {target}, where the text could be changed on its way")
    if schemes[1] not in ("http", "https"):
        raise RefusedError(f"redirects to {target}, which is neither http nor https")
    return target


@contextmanager
def _as_refusals(limits: Limits) -> Iterator[None]:
    """Turn the faults of the network into RefusedError, or BusyError where they may pass."""
    import httpx

    try:
        yield
    except httpx.ConnectTimeout as err:
        raise RefusedError(f"no connection within {limits.connect:g} s") from err
    except httpx.TimeoutException as err:
        raise BusyError(f"connected, then nothing for {limits.read:g} s") from err
    except httpx.ConnectError as err:
        raise RefusedError(f"no connection: {err}") from err
    except httpx.RemoteProtocolError as err:
        raise RefusedError(f"the answer was cut short: {err}") from err
    except httpx.TooManyRedirects as err:
        raise RefusedError(f"more than {limits.redirects} redirects, the last one to {err.request.url}") from err
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError, OSError) as err:
        raise RefusedError(f"no usable answer: {type(err).__name__}: {err}") from err


def _client(limits: Limits, auth: httpx.Auth | None) -> httpx.Client:
    import httpx

    def before(request: httpx.Request) -> None:
        _await_name(request.url.host, limits.connect)

    def after(response: httpx.Response) -> None:
        if response.has_redirect_location:
            redirect(str(response.url), response.headers["Location"])

    try:
        return httpx.Client(
            auth=auth,
            timeout=httpx.Timeout(limits.read, connect=limits.connect),
            headers={"User-Agent": USER_AGENT},
            follow_redirects=True,
            max_redirects=limits.redirects,
            event_hooks={"request": [before], "response": [after]},
        )
    except (httpx.InvalidURL, ValueError, ImportError, OSError) as err:
        raise RefusedError(f"{_wrong_setting()} cannot be used: {type(err).__name__}: {err}") from err


def _netrc() -> httpx.Auth | None:
    """The credentials in the file that NETRC names, else in ~/.netrc, if there is one."""
    from netrc import NetrcParseError

    import httpx

    file = Path(os.environ.get("NETRC") or "~/.netrc")
    try:
        file = file.expanduser()
        return httpx.NetRCAuth(str(file)) if file.is_file() else None
    except NetrcParseError:  # its message repeats what is there
        raise RefusedError(f"{file} is not what a .netrc file contains") from None
    except (OSError, RuntimeError, UnicodeDecodeError) as err:
        raise RefusedError(f"{file} cannot be read: {type(err).__name__}") from None


def _wrong_setting() -> str:
    """The environment variable without which a client can be made, else those that are set."""
    import httpx

    names = [name for name in os.environ if name.upper() in _SETTINGS]
    for name in names:
        value = os.environ.pop(name)
        try:
            httpx.Client().close()
        except (httpx.InvalidURL, ValueError, ImportError, OSError):
            continue
        finally:
            os.environ[name] = value
        return name
    return ", ".join(names)


def _await_name(host: str, seconds: float) -> None:
    """Look `host` up once within a time limit, which neither the system's lookup nor httpx offers.

    If packets vanish, the lookup alone takes 10 to 40 s. Behind a proxy the lookup is the proxy's job.
    """
    if getproxies().keys() - {"no"}:
        return

    def look() -> None:
        with suppress(OSError, UnicodeError):  # httpx meets the same error, and reports it
            socket.getaddrinfo(host, None)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise RefusedError(f"no connection: the name server did not answer for {host} within {seconds:g} s")


def _get(client: httpx.Client, url: str, to: Path) -> str | None:
    """Write what `url` gives to the file `to`; return the charset that Content-Type names."""
    with client.stream("GET", url) as response:
        _check_status(response)
        with to.open("wb") as file, _progress(response) as show:
            for chunk in response.iter_bytes():
                file.write(chunk)
                show(response.num_bytes_downloaded)
    _check_text(to, response.headers.get("Content-Type", ""))
    return response.charset_encoding


def _check_status(response: httpx.Response) -> None:
    code = response.status_code
    status = f"{code} {response.reason_phrase}".strip()
    if code == HTTPStatus.TOO_MANY_REQUESTS or response.is_server_error:
        asked = retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
        host = code in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
        raise BusyError(status, asked, host=host)
    if code != HTTPStatus.OK:
        error = TurnedAwayError if code == HTTPStatus.FORBIDDEN else RefusedError
        raise error(f"{status}: {_MEANING.get(code, 'expected 200 and a text')}")


@contextmanager
def _progress(response: httpx.Response) -> Iterator[Callable[[int], None]]:
    """Yield a function that shows how many bytes came, on stderr and only if it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(response.url.host, total=int(response.headers.get("Content-Length", 0)) or None)
        yield lambda size: progress.update(task, completed=size)


def _check_text(path: Path, content_type: str) -> None:
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise RefusedError("200 OK, and an empty body")
    if "html" in content_type.lower() or _HTML.match(head):
        title = _TITLE.search(head)
        shown = f' ("{title[1].decode(errors="replace")}")' if title else ""
        raise RefusedError(
            f"an HTML page{shown} instead of a text, perhaps a captcha or an error: look at it in a browser"
        )
