"""Serves MLflow's pages of a store on this machine alone, until Ctrl-C, and opens one of them in a browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gantry.core.errors import UserError
from gantry.core.processes.signals import stoppable
from gantry.core.redaction import redact
from gantry.runs.tracking.store import locate
from gantry.runs.tracking.ui import HOST, LOCAL, PORT, address_of, free_port, is_server, served

STARTING = 300.0  # seconds that MLflow's server has to answer
LEAVING = 10.0  # seconds that it has to end
ENDED = "ui=true: MLflow's server has ended"
SAID = 2000  # last characters of what it said that are shown where it fails
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")  # without one of them, Linux has no browser to open


def serve(uri: str | Path, page: Callable[[str], str]) -> None:
    """Print the address of a page of a store and open it where there is a browser; serve it until Ctrl-C.

    Args:
        uri: the store. Where it is a server, or served already, nothing is started and this returns at once.
        page: returns the address of the page, given that of the server.

    Raises:
        UserError: MLflow's server does not start, or ends by itself.
    """
    if is_server(uri):
        _open(page(address_of(uri)))
        return
    port = free_port()
    if port != PORT and served(uri):
        _open(page(LOCAL))
        return
    if port is None:
        raise UserError(f"ui=true: {HOST} has no free port from {PORT} on")
    base = f"http://{HOST}:{port}"
    print("starting MLflow, which takes up to half a minute", flush=True)
    with _server(locate(uri).tracking_uri, port) as ended:
        _await(base, ended)
        _open(page(base))
        print("Ctrl-C ends it.", flush=True)
        with suppress(KeyboardInterrupt):
            while (said := ended()) is None:
                time.sleep(0.5)
            raise UserError(f"{ENDED}:\n{said}")


@contextmanager
def _server(tracking_uri: str, port: int) -> Iterator[Callable[[], str | None]]:
    """Run MLflow's server in this context; yields a function that returns what it said where it has ended, else None.

    The store's address goes by the environment, since everybody on a machine sees its command lines.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true"} | os.environ | {"MLFLOW_BACKEND_STORE_URI": tracking_uri}
    with tempfile.TemporaryFile("w+") as said, stoppable():
        server = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)

        def ended() -> str | None:
            if server.poll() is None:
                return None
            said.seek(0)
            return redact(said.read()[-SAID:])

        try:
            yield ended
        finally:
            _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(LEAVING)


def _await(base: str, ended: Callable[[], str | None]) -> None:
    deadline = time.monotonic() + STARTING
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if (said := ended()) is not None:
            raise UserError(f"{ENDED}:\n{said}")
        with suppress(urllib.error.URLError, OSError), direct.open(f"{base}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.3)
    raise UserError(f"ui=true: MLflow's server has not answered at {base} for {STARTING:.0f} s")


def _open(address: str) -> None:
    print(address, flush=True)
    if sys.platform != "linux" or any(name in os.environ for name in SCREENS):
        with suppress(webbrowser.Error):
            webbrowser.open(address)
