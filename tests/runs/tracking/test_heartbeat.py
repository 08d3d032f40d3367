"""Which runs shown as RUNNING are those of processes that are gone, on this machine and on others."""

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gantry.core.processes.locks import held
from gantry.runs.tracking import delivery_thread
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.status import SILENCE, WORDLESS, close_dead
from gantry.runs.tracking.store import prepare_store
from gantry.runs.tracking.sweep_run import close_children


@pytest.fixture(scope="module")
def experiment(store: Path) -> tuple[MlflowClient, str]:
    return prepare_store(store, "heartbeats")


def running(experiment: tuple[MlflowClient, str], folder: Path, **tags: object) -> str:
    client, experiment_id = experiment
    all_tags = {"gantry.folder": str(folder)} | {f"gantry.{name}": str(value) for name, value in tags.items()}
    parent = {"mlflow.parentRunId": "a sweep"}
    return str(client.create_run(experiment_id, tags=all_tags | parent).info.run_id)


def test_a_process_of_another_machine_that_is_silent_is_gone(
    experiment: tuple[MlflowClient, str], tmp_path: Path
) -> None:
    client, _ = experiment
    now = int(time.time())
    (tmp_path / ".lock").touch()  # of the same name here
    silent, speaking, never = (
        running(experiment, tmp_path, host="elsewhere", **beat)
        for beat in ({"heartbeat": now - int(SILENCE) - 60}, {"heartbeat": now - int(SILENCE) + 60}, {})
    )
    asleep = running(experiment, tmp_path / "held", heartbeat=now - 10**5)
    with held(tmp_path / "held", "the run in"):
        close_dead(*experiment)
        runs = {run_id: client.get_run(run_id) for run_id in (silent, speaking, never, asleep)}
    assert [run.info.status for run in runs.values()] == ["KILLED", "RUNNING", "RUNNING", "RUNNING"]
    assert runs[silent].data.tags["gantry.reason"] == WORDLESS
    assert runs[silent].info.end_time == 1000 * (now - int(SILENCE) - 60)  # when it was last seen


def test_a_sweep_that_ends_leaves_the_jobs_of_other_machines_that_speak(
    store: Path, experiment: tuple[MlflowClient, str], tmp_path: Path
) -> None:
    speaking = running(experiment, tmp_path, host="elsewhere", heartbeat=int(time.time()))
    silent = running(experiment, tmp_path, host="elsewhere", heartbeat=0)
    close_children(store, "heartbeats", "a sweep")
    assert [experiment[0].get_run(run).info.status for run in (speaking, silent)] == ["RUNNING", "KILLED"]


def test_a_run_that_was_taken_for_dead_is_running_again(
    store: Path, experiment: tuple[MlflowClient, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = experiment
    monkeypatch.setattr(delivery_thread, "BEAT", 0.05)
    tracker = MLflowTracker(store, "heartbeats", tmp_path)
    run_id = str(tracker.wait_for_run(30))
    first = client.get_run(run_id).data.tags["gantry.heartbeat"]
    client.set_tag(run_id, "gantry.heartbeat", "0")
    client.set_tag(run_id, "gantry.reason", WORDLESS)
    client.set_terminated(run_id, "KILLED")
    deadline = time.monotonic() + 30
    while client.get_run(run_id).info.status != "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.02)
    tracker.close("FINISHED")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert int(run.data.tags["gantry.heartbeat"]) >= int(first)
    assert "gantry.reason" not in run.data.tags
