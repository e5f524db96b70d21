"""MLflow's own UI, on the experiment of a store."""

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from contextlib import suppress

import click
import httpx
from rich.console import Console

from charlm.errors import CharlmError
from charlm.tracking.store import Store
from charlm.tracking.ui_view import runs_page


def show(store: Store, port: int, *, browser: bool) -> None:
    """Print the address of the runs, and open it with `browser`: on the store's server, else on one started here.

    A server that is started here runs until it is interrupted.
    """
    if store.is_server:
        _open(store, store.address.rstrip("/"), browser=browser)
        return
    _require_free(port)
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {"MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"}
    environment |= {"MLFLOW_BACKEND_STORE_URI": store.uri}  # not on the command line: it may have a password
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level warning"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # In another session, Ctrl-C reaches only this process, which then ends the server and all that it started.
    with subprocess.Popen(command, env=environment, start_new_session=True) as server, suppress(KeyboardInterrupt):
        try:
            _wait_for(address, server)
            _open(store, address, browser=browser)
            server.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def _require_free(port: int) -> None:
    """Raise CharlmError if the port is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as err:
            fix = f"Choose another: charlm ui --port {port + 1}"
            raise CharlmError(f"Port {port} is in use on this machine.", fix=fix) from err


def _wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    """Return when the server answers; CharlmError if it ends before."""
    with Console(stderr=True).status("MLflow's server is starting"):
        while True:
            try:
                httpx.get(f"{address}/health", trust_env=False).raise_for_status()
                return
            except httpx.HTTPError:
                if (code := server.poll()) is not None:
                    message = f"MLflow's UI ended with exit code {code} before it answered; its own message is above."
                    raise CharlmError(message) from None
                time.sleep(0.2)


def _open(store: Store, address: str, *, browser: bool) -> None:
    """Print the address of the runs on the server at `address`, and open it if there is a browser."""
    page = f"{address}/{runs_page(store)}"
    click.echo(f"\nThe runs: {page}\n")
    if browser:
        webbrowser.open(page)
