"""A run that was deleted in MLflow is not waited for: it is said how to restore it, and then nothing is missing."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from gantry.runs.tracking import deliver
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.query import open_store, store_of_run
from gantry.runs.tracking.status import Deleted, restoring
from gantry.runs.tracking.store import prepare_store
from gantry.runs.tracking.sweep_run import Child, close_parent, open_parent, settle


@pytest.fixture
def client(store: Path) -> MlflowClient:
    return prepare_store(store, "gantry")[0]


def finished(store: Path, folder: Path) -> str:
    tracker = MLflowTracker(store, "gantry", folder)
    tracker.log_metrics({"fid": 4.0}, 1)
    tracker.close("FINISHED")
    assert tracker.run_id is not None
    return tracker.run_id


def steps(client: MlflowClient, run_id: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, "fid")]


def command(store: Path, run_id: str) -> str:
    return restoring(store, f"runs restore --run-id {run_id}")


def test_a_deleted_run_that_goes_on_says_how_to_restore_it(
    store: Path, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    run_id = finished(store, tmp_path)
    client.delete_run(run_id)
    began = time.monotonic()
    tracker = MLflowTracker(store, "gantry", tmp_path, continues=run_id, goes_on=True)
    tracker.log_metrics({"fid": 3.0}, 2)
    tracker.close("FINISHED")
    assert time.monotonic() - began < 15  # it does not wait for the store, which is there
    assert "was deleted in MLflow" in caplog.text
    assert command(store, run_id) in caplog.text
    assert "When it is back" not in caplog.text
    assert deliver.main([str(tmp_path)]) == 1
    assert "was deleted in MLflow" in capsys.readouterr().out
    assert not (tmp_path / "refused.jsonl").exists()
    subprocess.run(command(store, run_id), shell=True, check=True)
    assert deliver.main([str(tmp_path)]) == 0
    assert steps(client, run_id) == [1, 2]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_what_is_logged_after_the_run_was_deleted_is_kept(
    store: Path, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = MLflowTracker(store, "gantry", tmp_path)
    run_id = tracker.wait_for_run(60)
    assert run_id is not None
    client.delete_run(run_id)
    tracker.log_metrics({"fid": 4.0}, 1)
    tracker.close("FINISHED")
    assert "Training goes on, and what it logs is kept in its folder" in caplog.text
    assert not (tmp_path / "refused.jsonl").exists()
    client.restore_run(run_id)
    assert deliver.main([str(tmp_path)]) == 0
    assert steps(client, run_id) == [1]


def test_a_run_restored_while_it_trains_gets_all(
    store: Path, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = MLflowTracker(store, "gantry", tmp_path)
    run_id = tracker.wait_for_run(60)
    assert run_id is not None
    client.delete_run(run_id)
    tracker.log_metrics({"fid": 4.0}, 1)
    time.sleep(2)
    client.restore_run(run_id)
    tracker.close("FINISHED")
    assert steps(client, run_id) == [1]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_sweep_whose_run_was_deleted_says_so(
    store: Path, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parent = open_parent(store, "gantry", "sweep", [], tmp_path)
    assert parent is not None
    client.delete_run(parent)
    assert open_parent(store, "gantry", "sweep", [], tmp_path, parent) not in (None, parent)
    assert command(store, parent) in caplog.text
    caplog.clear()
    close_parent(store, "gantry", parent, "FINISHED")
    assert command(store, parent) in caplog.text


def test_a_job_whose_run_was_deleted_says_so(
    store: Path, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = finished(store, tmp_path)
    client.delete_run(run_id)
    child = Child(tmp_path, "KILLED", "by hand", "0_dcgan", {}, tmp_path / "log.txt", "")
    settle(store, "gantry", "parent", child)
    assert command(store, run_id) in caplog.text


def test_an_evaluation_of_a_deleted_run_says_so(store: Path, client: MlflowClient, tmp_path: Path) -> None:
    run_id = finished(store, tmp_path)
    client.delete_run(run_id)
    with pytest.raises(Deleted, match=f"mlflow runs restore --run-id {run_id}"):
        store_of_run(run_id, [str(store)], "gantry")


def test_a_deleted_experiment_is_said_when_it_is_looked_at(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    client, experiment = prepare_store(store, "looked at")
    client.delete_experiment(experiment)
    assert open_store(str(store), "looked at") is not None
    assert f"mlflow experiments restore --experiment-id {experiment}" in caplog.text


def test_files_that_cannot_be_kept_hold_nothing_back(
    store: Path, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "artifacts"
    client.create_experiment(f"away {tmp_path}", place.as_uri())
    (tmp_path / "run").mkdir()
    tracker = MLflowTracker(store, f"away {tmp_path}", tmp_path / "run")
    tracker.log_image(np.zeros((8, 8, 3), np.uint8), "samples", 1)
    tracker.log_metrics({"fid": 4.0}, 2)
    began = time.monotonic()
    tracker.close("FINISHED")
    assert time.monotonic() - began < 15
    assert caplog.text.count("MLflow takes this run's numbers, but its files (images, generators) cannot be kept") == 1
    assert tracker.run_id is not None
    run = client.get_run(tracker.run_id)
    assert (run.data.metrics, run.info.status) == ({"fid": 4.0}, "FINISHED")
    assert deliver.main([str(tmp_path / "run")]) == 1
    assert "cannot be written" in capsys.readouterr().out
    (tmp_path / "file").unlink()
    assert deliver.main([str(tmp_path / "run")]) == 0
    assert len(client.list_artifacts(tracker.run_id, "images")) == 2
    assert not (tmp_path / "run" / "undelivered.jsonl").exists()
