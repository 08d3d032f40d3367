"""Real tracking servers, databases beneath them, and a wire to them that fails on demand."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Wire:
    """A TCP proxy on loopback.

    `mode` is how connections fare: "whole"; "refused"; "silent": accepted, never answered; "500": answered so;
    "cut": the request arrives, its answer does not. Setting it ends those that are open.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.failed = 0  # connections, in any mode but "whole"
        self._mode = "refused"
        self._listening: socket.socket | None = None
        self.set("whole")

    def set(self, mode: str) -> None:
        with self._lock:
            self._mode = mode
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
            self._open.clear()
            if mode == "refused" and self._listening is not None:
                with suppress(OSError):
                    self._listening.shutdown(socket.SHUT_RDWR)
                self._listening.close()
                self._listening = None
            elif mode != "refused" and self._listening is None:
                self._listening = socket.create_server(("127.0.0.1", self.port))
                threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(client)
                mode = self._mode
                self.failed += mode != "whole"
            if mode != "silent":
                threading.Thread(target=self._serve, args=(client, mode), daemon=True).start()

    def _serve(self, client: socket.socket, mode: str) -> None:
        with suppress(OSError), ExitStack() as ends:
            ends.callback(client.close)
            if mode == "500":
                client.recv(2**16)
                client.sendall(ERROR)
                return
            server = socket.create_connection(("127.0.0.1", self._target), timeout=60)
            ends.callback(server.close)
            with self._lock:
                self._open.add(server)
            threading.Thread(target=_copy, args=(client, server), daemon=True).start()
            if mode == "cut":
                server.recv(1)
                return
            _copy(server, client)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Server:
    """An `mlflow server` process that can be stopped and started."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.port = free_port()
        self._command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        self._command += ["--backend-store-uri", backend, "--artifacts-destination", str(folder / "kept")]
        self._log = (folder / "server.txt").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # In a session of its own: its workers end with it.
        self._process = subprocess.Popen(
            self._command, stdout=self._log, stderr=self._log, start_new_session=True, env=_quiet()
        )
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                return
            except OSError:
                assert self._process.poll() is None, "mlflow server did not start"
                assert time.monotonic() < deadline, "mlflow server did not answer"
                time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


def _quiet() -> dict[str, str]:
    return os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}


@contextmanager
def serving(folder: Path, backend: str) -> Iterator[tuple[Server, Wire]]:
    """A server on a database, and the wire to it."""
    server = Server(folder, backend)
    server.start()
    wire = Wire(server.port)
    try:
        yield server, wire
    finally:
        wire.set("refused")
        server.stop()


class Postgres:
    """A PostgreSQL of our own; it does not run as root, nor in pytest's folders, which are their user's only."""

    def __init__(self) -> None:
        self._data, self._port = Path(tempfile.mkdtemp(prefix="postgres")), free_port()
        self._user = "postgres" if os.geteuid() == 0 else None
        self.uri = f"postgresql+psycopg2://tester@127.0.0.1:{self._port}/postgres"
        if self._user is not None:
            shutil.chown(self._data, self._user)
        self._run("initdb", "-D", str(self._data), "-U", "tester", "-A", "trust", "--no-sync")

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._data / "log"), "-o", options, "start")

    def stop(self) -> None:
        """As a crash of the database: its connections break."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop it for good."""
        self.stop()
        shutil.rmtree(self._data)

    def _run(self, *command: str) -> None:
        user = {} if self._user is None else {"user": self._user, "group": self._user, "extra_groups": []}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/", **user)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr


def has_postgres() -> bool:
    """Whether PostgreSQL's programs are here, and somebody to run them."""
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        return False
    return os.geteuid() != 0 or any(user.pw_name == "postgres" for user in pwd.getpwall())
