"""Which port and address are printed for MLflow's pages."""

import http.server
import json
import socket
import threading
from contextlib import contextmanager

import pytest

from gantry.runs.tracking import ui, ui_server


@contextmanager
def listening(answers):
    """A server on a free port that answers every request with what `answers` returns as JSON."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answers).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer((ui.HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def mlflow_at(monkeypatch):
    def at(port):
        monkeypatch.setattr(ui, "PORT", port)
        monkeypatch.setattr(ui, "LOCAL", f"http://{ui.HOST}:{port}")
        monkeypatch.setattr(ui_server, "PORT", port)
        monkeypatch.setattr(ui_server, "LOCAL", f"http://{ui.HOST}:{port}")

    return at


def experiment(place):
    return {"experiment": {"artifact_location": str(place)}}


def test_where_mlflows_port_is_busy_the_command_and_the_address_name_another(tmp_path, mlflow_at):
    with listening(experiment("/somebody/else/mlruns/artifacts/0")) as port:
        mlflow_at(port)
        command, address = ui.starting(tmp_path / "mlruns")
    assert command is not None
    *_, option, other = command.split()
    assert option == "--port"
    assert int(other) > port
    assert address == f"http://127.0.0.1:{other}"


def test_a_port_that_answers_nothing_is_busy_too(tmp_path, mlflow_at, monkeypatch):
    monkeypatch.setattr(ui, "ANSWER", 0.2)
    with socket.socket() as held:
        held.bind((ui.HOST, 0))
        held.listen()
        mlflow_at(held.getsockname()[1])
        command, _ = ui.starting(tmp_path / "mlruns")
    assert command is not None
    assert " --port " in command


def test_where_the_store_is_served_already_no_command_is_needed(tmp_path, mlflow_at, capsys):
    with listening(experiment(tmp_path / "mlruns" / "artifacts" / "0")) as port:
        mlflow_at(port)
        assert ui.starting(tmp_path / "mlruns") == (None, f"http://127.0.0.1:{port}")
        ui_server.serve(tmp_path / "mlruns", lambda base: f"{base}/#/page")
    assert capsys.readouterr().out == f"http://127.0.0.1:{port}/#/page\n"


def test_the_page_of_a_comparison_is_at_the_port_of_the_command(tmp_path, mlflow_at):
    page = ui.Page(str(tmp_path / "mlruns"), "1", ui.View("", {}), "key")
    with listening(experiment("/somebody/else")) as port:
        mlflow_at(port)
        command, address = page.lines()
    assert address.strip().startswith(f"http://127.0.0.1:{command.split()[-1]}/#/experiments/1/runs?")


def test_a_server_needs_neither():
    assert ui.starting("http://user:secret@host:5000") == (None, "http://host:5000")
