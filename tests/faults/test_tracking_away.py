"""Nothing of a run is lost or doubled by a real tracking server that goes away, nor by the database beneath it."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from project import ROOT
from tracked_training import Training
from tracking_servers import Postgres, Server, Wire, has_postgres, serving

from gantry.runs.tracking import delivery_thread
from gantry.runs.tracking.status import close_dead
from gantry.runs.tracking.store import prepare_store

pytestmark = pytest.mark.slow

OUTAGE = 8.0

Record = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages of seconds, as those of minutes: what waits, waits shorter."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(delivery_thread, "LONGEST_PAUSE", 1.0)
    monkeypatch.setattr(delivery_thread, "BEAT", 1.0)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def tracking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    """A server, the wire to it and, where it stands on one, its PostgreSQL."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        with serving(folder, f"sqlite:///{folder}/mlflow.db") as (server, wire):
            yield server, wire, None
        return
    pytest.importorskip("psycopg2")
    if not has_postgres():
        pytest.skip("PostgreSQL's programs are not here")
    database = Postgres()
    database.start()
    try:
        with serving(folder, database.uri) as (server, wire):
            yield server, wire, database
    finally:
        database.remove()


def backend(database: Postgres | None) -> str:
    return "SQLite" if database is None else "PostgreSQL"


@pytest.mark.parametrize("how", ["refused", "silent", "500", "cut"])
def test_a_connection_that_fails(tracking: tuple, tmp_path: Path, how: str, record_property: Record) -> None:
    _, wire, database = tracking
    training = Training(wire.address, tmp_path / "run")
    training.run(3)
    before = wire.failed
    for _ in range(2):
        wire.set(how)
        training.run(OUTAGE / 2)
        wire.set("whole")
        training.run(2)
    training.tracker.close("FINISHED")
    client, _ = prepare_store(wire.address, "away")
    training.check(client)
    failed = f", {wire.failed - before} connections" if wire.failed > before else ""
    record_property(
        "fault",
        {
            "fault": f"tracking server on {backend(database)}: connections {how}",
            "injected": 2,
            "happened": f"{training.steps} steps logged{failed}, all delivered once and in order",
            "lost": "nothing",
        },
    )


def test_every_answer_lost_from_the_creation_on(tracking: tuple, tmp_path: Path, record_property: Record) -> None:
    """Requests arrive and no answer does: nothing is made twice, not even the run."""
    _, wire, database = tracking
    wire.set("whole")
    prepare_store(wire.address, "away")
    training = Training(wire.address, tmp_path / "run")
    cuts = 0
    end = time.monotonic() + 20
    while time.monotonic() < end:  # in and out, so that each kind of request is hit some time
        wire.set("cut")
        training.run(0.4)
        wire.set("whole")
        training.run(0.6)
        cuts += 1
    training.tracker.close("FINISHED")
    client, _ = prepare_store(wire.address, "away")
    training.check(client)
    record_property(
        "fault",
        {
            "fault": f"answers lost on the way, tracking server on {backend(database)}",
            "injected": cuts,
            "happened": f"{wire.failed} connections cut, {training.steps} steps stand once",
            "lost": "nothing",
        },
    )


def test_a_server_that_is_stopped_and_started(tracking: tuple, tmp_path: Path, record_property: Record) -> None:
    server: Server
    server, wire, database = tracking
    training = Training(wire.address, tmp_path / "run")
    training.run(3)
    server.signal(signal.SIGSTOP)  # it accepts, and answers what it was asked when it goes on
    training.run(OUTAGE)
    server.signal(signal.SIGCONT)
    training.run(3)
    server.stop()
    training.run(2)
    server.start()
    training.tracker.close("FINISHED")
    client, _ = prepare_store(wire.address, "away")
    training.check(client)
    record_property(
        "fault",
        {
            "fault": f"mlflow server on {backend(database)} frozen, then killed and started again",
            "injected": 2,
            "happened": f"{training.steps} steps delivered once and in order",
            "lost": "nothing",
        },
    )


def test_a_server_frozen_while_runs_begin(tracking: tuple, tmp_path: Path, record_property: Record) -> None:
    """It creates, once it goes on, what it was asked to by requests that had long been given up."""
    server, wire, database = tracking
    runs = []
    for number in range(4):
        training = Training(wire.address, tmp_path / str(number))
        time.sleep(0.02 * number)
        server.signal(signal.SIGSTOP)
        training.run(5)
        server.signal(signal.SIGCONT)
        training.run(1)
        runs.append(training)
    client, _ = prepare_store(wire.address, "away")
    for training in runs:
        training.tracker.close("FINISHED")
        training.check(client)
    record_property(
        "fault",
        {
            "fault": f"mlflow server on {backend(database)} frozen while a run begins",
            "injected": len(runs),
            "happened": "each run exists once",
            "lost": "nothing",
        },
    )


def test_the_database_under_the_server_crashes(tracking: tuple, tmp_path: Path, record_property: Record) -> None:
    _, wire, database = tracking
    if database is None:
        pytest.skip("a file does not crash")
    training = Training(wire.address, tmp_path / "run")
    training.run(3)
    for _ in range(3):
        database.stop()
        training.run(3)
        database.start()
        training.run(3)
    training.tracker.close("FINISHED")
    client, _ = prepare_store(wire.address, "away")
    training.check(client)
    record_property(
        "fault",
        {
            "fault": "PostgreSQL under the tracking server crashes",
            "injected": 3,
            "happened": f"{training.steps} steps delivered once and in order",
            "lost": "nothing",
        },
    )


def test_a_server_away_for_a_whole_run(tracking: tuple, tmp_path: Path, record_property: Record) -> None:
    """A real run trains without it; two commands at once deliver it, the first of them killed on its way."""
    _, wire, database = tracking
    wire.set("refused")
    folder = tmp_path / "run"
    train = [sys.executable, str(ROOT / "train.py"), "experiment=smoke", f"hydra.run.dir={folder}"]
    train += [f"tracking.uri={wire.address}", "tracking.experiment=away", "tracking.close_timeout=0"]
    train += [f"paths.root={tmp_path}", f"paths.cache={tmp_path / 'cache'}"]
    subprocess.run(train, check=True, capture_output=True, timeout=300)
    assert json.loads((folder / "mlflow_run.json").read_text())["run_id"] is None
    wire.set("whole")
    command = [sys.executable, "-m", "gantry.runs.tracking.deliver", str(folder)]
    first = subprocess.Popen(command)
    while json.loads((folder / "mlflow_run.json").read_text())["run_id"] is None:
        time.sleep(0.01)
    first.kill()
    first.wait()
    both = [subprocess.Popen(command) for _ in range(2)]
    codes = sorted(process.wait(timeout=120) for process in both)
    assert codes in ([0, 0], [0, 1])  # the second may have come too early
    client, _ = prepare_store(wire.address, "away")
    run = client.get_run(json.loads((folder / "mlflow_run.json").read_text())["run_id"])
    assert run.info.status == "FINISHED"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged: dict[str, list[int]] = {}
    for line in lines:
        for key in line.keys() - {"step", "time"}:
            logged.setdefault(key, []).append(line["step"])
    points = {key: [p.step for p in client.get_metric_history(run.info.run_id, key)] for key in logged}
    assert points == logged
    names = [Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images")]
    assert len(names) == 2 * len(list(folder.glob("samples/*.png")) + list(folder.glob("real/*.png")))
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "environment.json", "summary.json", "generator", "images"} <= kept
    assert not (folder / "undelivered.jsonl").exists()
    record_property(
        "fault",
        {
            "fault": f"tracking server on {backend(database)} away for a whole run, the delivery killed",
            "injected": 1,
            "happened": f"{sum(map(len, logged.values()))} values, {len(names) // 2} images delivered once later",
            "lost": "nothing",
        },
    )


def test_a_store_locked_by_another_writer(tmp_path: Path, record_property: Record) -> None:
    prepare_store(tmp_path / "store", "away")
    training = Training(tmp_path / "store", tmp_path / "run")
    training.run(3)
    with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        training.run(30)
        other.execute("ROLLBACK")
    training.run(2)
    training.tracker.close("FINISHED")
    client, _ = prepare_store(tmp_path / "store", "away")
    training.check(client)
    record_property(
        "fault",
        {
            "fault": "SQLite store locked by another writer for 30 s",
            "injected": 1,
            "happened": f"{training.steps} steps delivered once and in order",
            "lost": "nothing",
        },
    )


def test_a_run_of_another_machine_that_was_taken_for_dead_lives_on(
    tracking: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    _, wire, database = tracking
    monkeypatch.setattr("gantry.runs.tracking.status.SILENCE", 3.0)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        training = Training(wire.address, tmp_path / "run")
        training.run(3)
        wire.set("silent")
        training.run(6)
        straight = Wire(wire._target)  # the others' way to the server is whole
        client, experiment_id = prepare_store(straight.address, "away")
        elsewhere.setattr(socket, "gethostname", lambda: "here")
        mlflow_run_id = str(training.tracker.run_id)
        close_dead(client, experiment_id)
        assert client.get_run(mlflow_run_id).info.status == "KILLED"
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        wire.set("whole")
        training.run(6)
        assert client.get_run(mlflow_run_id).info.status == "RUNNING"
        training.tracker.close("FINISHED")
        training.check(client)
        assert "gantry.reason" not in client.get_run(mlflow_run_id).data.tags
        straight.set("refused")
    record_property(
        "fault",
        {
            "fault": f"a live run of another machine taken for dead, server on {backend(database)}",
            "injected": 1,
            "happened": "it set itself RUNNING again and finished",
            "lost": "nothing",
        },
    )


def test_memory_is_bounded_while_the_server_hangs(tmp_path: Path, record_property: Record) -> None:
    """100,000 steps wait on disk."""
    script = """
        import sys, resource
        from pathlib import Path
        from gantry.runs.tracking import MLflowTracker
        import mlflow, psutil
        tracker = MLflowTracker(sys.argv[1], "away", Path(sys.argv[2]), close_timeout=0.0)
        process = psutil.Process()
        for step in range(1, 100_001):
            tracker.log_metrics({"loss": step / 3, "score": 1.0}, step)
            if step % 10_000 == 0:
                print(process.memory_info().rss)
        tracker.close("KILLED")
    """
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hanging:
        address = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        command = [sys.executable, "-c", textwrap.dedent(script), address, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=os.environ)
    sizes = [int(line) / 2**20 for line in done.stdout.split()]
    assert len((tmp_path / "undelivered.jsonl").read_text().splitlines()) == 100_001
    assert sizes[-1] - sizes[1] < 10, sizes  # as Python objects they would take some 60 MiB
    record_property(
        "fault",
        {
            "fault": "tracking server hangs for 100,000 logged steps",
            "injected": 1,
            "happened": f"memory after 20,000 steps {sizes[1]:.0f} MiB, at the end {sizes[-1]:.0f} MiB",
            "lost": "nothing",
        },
    )
