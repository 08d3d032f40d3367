"""A tracking server that is away, or hangs, costs training nothing and loses nothing."""

import errno
import json
import math
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from gantry.runs.tracking import delivery_thread, journal
from gantry.runs.tracking.events import Event
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.session import RunSession
from gantry.runs.tracking.store import prepare_store
from gantry.runs.tracking.sweep_run import open_parent
from gantry.runs.tracking.tracker import DatasetInfo


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a server that accepts and never answers, with a password in it."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"


def undelivered(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "undelivered.jsonl").read_text().splitlines()]


def test_nothing_is_lost_when_the_server_hangs(hanging: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from PIL import Image

    tracker = MLflowTracker(
        hanging,
        "gantry",
        tmp_path,
        run_name="away",
        tags={"variant": "wgan"},
        params={"lr": 1},
        close_timeout=0.5,
    )
    for step in range(1000):
        tracker.log_metrics({"loss/generator": math.nan if step == 7 else step / 2}, step)
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    tracker.log_image(image, "samples/ema", 999)
    (tmp_path / "generator.safetensors").write_bytes(b"weights")
    tracker.log_artifact(tmp_path / "generator.safetensors", "generator")
    assert tracker.wait_for_run(0.01) is None
    tracker.close("FAILED", "lost http://user:secret@host")

    params, *metrics, picture, artifact, ended = undelivered(tmp_path)
    run = json.loads((tmp_path / "mlflow_run.json").read_text())
    assert run["run_id"] is None
    assert run["run_name"] == "away"
    assert run["tags"]["variant"] == "wgan"
    assert params == {"kind": "params", "values": {"lr": "1"}}
    assert [line["step"] for line in metrics] == list(range(1000))
    assert metrics[7]["values"] == {"loss/generator": None}
    assert metrics[8]["values"] == {"loss/generator": 4.0}
    assert np.array_equal(np.asarray(Image.open(tmp_path / picture["file"])), image)
    assert (picture["key"], picture["step"]) == ("samples/ema", 999)
    assert (tmp_path / artifact["file"]).read_bytes() == b"weights"
    assert artifact["folder"] == "generator"
    assert (ended["status"], ended["reason"]) == ("FAILED", "lost http://***@host")
    assert str(tmp_path / "undelivered.jsonl") in caplog.text
    assert f"python -m gantry.runs.tracking.deliver {tmp_path}" in caplog.text
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in [caplog.text.encode(), *written] if b"secret" in text]


def test_the_process_ends_although_the_server_hangs(hanging: str, tmp_path: Path) -> None:
    """Also by an interrupt: the caller closes in `finally`, and a second interrupt ends the wait."""
    script = f"""
        import os, signal, threading
        from pathlib import Path
        from gantry.runs.tracking import MLflowTracker
        tracker = MLflowTracker({hanging!r}, "gantry", Path({str(tmp_path)!r}), close_timeout=1000.0)
        tracker.log_metrics({{"fid": 1.0}}, 10)
        try:
            raise KeyboardInterrupt
        finally:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            tracker.close("KILLED", "interrupted")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert "KeyboardInterrupt" in done.stderr
    assert [line["kind"] for line in undelivered(tmp_path)] == ["metrics", "ended"]


def test_a_sweep_goes_on_without_its_parent(hanging: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # The listening socket answers nothing; a port nobody listens on fails at once.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert open_parent(f"http://u:secret@127.0.0.1:{port}", "gantry", "sweep", [], tmp_path) is None
    assert "no parent run" in caplog.text
    assert "secret" not in caplog.text


def test_deliveries_resume_in_order(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery_thread, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(delivery_thread, "GATHER", 0.01)
    connect, send = RunSession.connect, RunSession.send
    failures = {"connect": 1, "send": 3}

    def connect_but_lose_the_answer(session: RunSession) -> None:
        connect(session)
        if failures["connect"]:
            failures["connect"] -= 1
            session._connected, session.plan = False, replace(session.plan, run_id=None)
            raise ConnectionError("reset by peer")

    def send_late(session: RunSession, events: Sequence[Event]) -> None:
        if failures["send"]:
            failures["send"] -= 1
            raise ConnectionError("reset by peer")
        send(session, events)

    monkeypatch.setattr(RunSession, "connect", connect_but_lose_the_answer)
    monkeypatch.setattr(RunSession, "send", send_late)
    tracker = MLflowTracker(store, "outages", tmp_path)
    for step in range(20):
        tracker.log_metrics({"fid": float(step)}, step)
    tracker.close("FINISHED")

    client, experiment_id = prepare_store(store, "outages")
    (run,) = client.search_runs([experiment_id])  # the creation whose answer was lost is not repeated
    assert run.info.run_id == tracker.run_id
    assert run.info.status == "FINISHED"
    assert [m.value for m in client.get_metric_history(run.info.run_id, "fid")] == list(range(20))
    assert failures == {"connect": 0, "send": 0}
    assert not (tmp_path / "undelivered.jsonl").exists()
    assert caplog.text.count("deliveries are retried") == 2  # one an outage


def test_what_arrived_although_its_answer_was_lost_is_not_doubled(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call to MLflow does what it should and fails, the first time."""
    monkeypatch.setattr(delivery_thread, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(delivery_thread, "LONGEST_PAUSE", 0.01)
    prepare_store(store, "lost answers")
    lost: set[str] = set()

    def losing(name: str) -> Callable[..., Any]:
        call = getattr(MlflowClient, name)

        def loses(*arguments: Any, **options: Any) -> Any:
            answer = call(*arguments, **options)
            what = " ".join([name, *(Path(str(argument)).name for argument in arguments[1:]), str(options)])
            if what not in lost:
                lost.add(what)
                raise ConnectionError("reset by peer")
            return answer

        return loses

    for name in ("create_run", "log_batch", "log_artifact", "log_inputs", "set_tag", "set_terminated"):
        monkeypatch.setattr(MlflowClient, name, losing(name))
    dataset = DatasetInfo("digits", "d" * 64, "here", "train", 3, (4, 4, 3), 0)
    tracker = MLflowTracker(store, "lost answers", tmp_path, params={"seed": 0}, dataset=dataset)
    for step in range(3):
        tracker.log_metrics({"fid": math.nan if step == 1 else step / 3}, step)
        tracker.log_image(np.full((4, 4, 3), step, np.uint8), "samples", step)
    (tmp_path / "config.yaml").write_text("n_critic: 5")
    tracker.log_artifact(tmp_path / "config.yaml")
    tracker.close("FAILED", "out of memory")
    monkeypatch.undo()
    client, experiment_id = prepare_store(store, "lost answers")
    (run,) = client.search_runs([experiment_id])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "fid")] == [0, 1, 2]
    files = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert sorted(path.split("+")[2] for path in files if path.endswith(".png")) == ["0", "1", "2"]
    assert len(run.inputs.dataset_inputs) == 1
    assert (run.info.status, run.data.tags["gantry.reason"]) == ("FAILED", "out of memory")
    assert len(lost) >= 14


@pytest.mark.parametrize(("answers", "arrives"), [(2, True), (1000, False)])
def test_a_database_that_is_lost_for_a_moment_refuses_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: int, arrives: bool
) -> None:
    """MLflow's answer is the same as to a value that the database can never take."""
    monkeypatch.setattr(delivery_thread, "FIRST_PAUSE", 0.01)
    send = MlflowClient.log_batch
    given = 0

    def lost(client: MlflowClient, run_id: str, metrics: Sequence[Any] = (), **options: Any) -> None:
        nonlocal given
        if metrics and (given := given + 1) <= answers:
            raise MlflowException("connection already closed", error_code=BAD_REQUEST)
        send(client, run_id, metrics, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", lost)
    tracker = MLflowTracker(store, "gantry", tmp_path)
    tracker.log_metrics({"fid": 1.0}, 1)
    tracker.close("FINISHED")
    monkeypatch.undo()
    client, _ = prepare_store(store, "gantry")
    assert len(client.get_metric_history(str(tracker.run_id), "fid")) == arrives
    assert (tmp_path / "refused.jsonl").exists() is not arrives


def test_a_full_disk_keeps_nothing_from_the_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told from memory what the journal cannot take, until there is room again."""
    room = journal.append_lines

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    tracker = MLflowTracker(store, "full disk", tmp_path)
    for function in ("append_lines", "write_png"):
        monkeypatch.setattr(journal, function, full)
    for step in range(5):
        tracker.log_metrics({"fid": float(step)}, step)
    tracker.log_image(np.zeros((8, 8, 3), dtype=np.uint8), "samples", 5)
    assert tracker.wait_for_run(30)
    monkeypatch.setattr(journal, "append_lines", room)
    tracker.log_metrics({"fid": 5.0}, 5)
    monkeypatch.setattr(journal, "append_lines", full)
    tracker.close("FINISHED")
    client, _ = prepare_store(store, "full disk")
    assert [m.value for m in client.get_metric_history(str(tracker.run_id), "fid")] == list(range(6))
    assert len(client.list_artifacts(str(tracker.run_id), "images")) == 2  # the image and its thumbnail
    assert client.get_run(str(tracker.run_id)).info.status == "FINISHED"
    # The first store that a process opens has its tables made, of which MLflow tells.
    assert [record.message for record in caplog.records if record.name != "mlflow.store.db.utils"] == []


def test_a_full_disk_and_a_server_away_do_not_fill_the_memory(
    hanging: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal, "append_lines", full)
    monkeypatch.setattr(journal, "LOOSE_EVENTS", 10)
    tracker = MLflowTracker(hanging, "gantry", tmp_path, close_timeout=0.0)
    for step in range(20):
        tracker.log_metrics({"fid": float(step)}, step)
    assert tracker._journal.waiting == 10
    assert "No space left on device" in caplog.text
    tracker.close("KILLED")


def test_images_wait_on_disk_and_leave_nothing_behind(store: Path, tmp_path: Path) -> None:
    tracker = MLflowTracker(store, "gantry", tmp_path)
    tracker.log_image(np.zeros((8, 8, 3), dtype=np.uint8), "samples", 5)
    assert len(list((tmp_path / "undelivered").glob("*/*.png"))) == 1
    tracker.close("FINISHED")
    client, _ = prepare_store(store, "gantry")
    assert [i.path for i in client.list_artifacts(str(tracker.run_id), "images") if "+step+5+" in i.path]
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow_run.json"]
