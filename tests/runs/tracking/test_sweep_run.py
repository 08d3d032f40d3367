"""The run above a sweep's jobs, and the jobs that could not say how they ended."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from gantry.core.processes.locks import held
from gantry.runs.find import NoSuchRun, find_sweep
from gantry.runs.sweep_record import SweepRecord
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.query import open_store
from gantry.runs.tracking.store import prepare_store
from gantry.runs.tracking.sweep_run import Child, close_children, close_parent, open_parent, settle


@pytest.fixture(scope="module")
def client(store: Path) -> MlflowClient:
    return prepare_store(store, "gantry")[0]


@pytest.fixture
def parent(store: Path, tmp_path: Path) -> str:
    run = open_parent(store, "gantry", f"sweep {tmp_path}", ["model=vanilla,dcgan", "seed=0"], tmp_path)
    assert run is not None
    return run


def children(client: MlflowClient, parent: str) -> list[Run]:
    experiment = client.get_run(parent).info.experiment_id
    return client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")


def ended(folder: Path, status: str, reason: str | None = None) -> Child:
    tags = {"gantry.folder": str(folder), "overrides": "seed=0"}
    return Child(folder, status, reason, folder.name, tags, folder / "log.txt", "the last line")  # type: ignore[arg-type]


def test_a_sweep_is_a_parent_with_nested_runs(store: Path, client: MlflowClient, tmp_path: Path, parent: str) -> None:
    run = client.get_run(parent)
    assert run.info.status == "RUNNING"
    assert run.data.tags["overrides"] == "model=vanilla,dcgan seed=0"
    assert run.data.tags["gantry.kind"] == "sweep"
    tracker = MLflowTracker(store, "gantry", tmp_path / "0", parent_run_id=parent)
    tracker.close("FINISHED")
    assert [run.info.run_id for run in children(client, parent)] == [tracker.run_id]
    close_parent(store, "gantry", parent, "FAILED")
    assert client.get_run(parent).info.status == "FAILED"


def test_a_sweep_is_found_by_its_id_and_its_name_and_opened_again(
    store: Path, client: MlflowClient, tmp_path: Path, parent: str
) -> None:
    SweepRecord(tmp_path, f"sweep {tmp_path}", [], parent).save()
    opened = open_store(str(store), "gantry")
    for name in (parent, f"sweep {tmp_path}"):
        assert find_sweep(name, "sweep.resume", lambda: opened).folder == tmp_path
    with pytest.raises(NoSuchRun, match="no such sweep"):
        find_sweep("no such sweep", "sweep.resume", lambda: opened)
    close_parent(store, "gantry", parent, "KILLED")
    assert open_parent(store, "gantry", "sweep", [], tmp_path, parent) == parent
    assert client.get_run(parent).info.status == "RUNNING"


def test_a_job_killed_without_a_word_is_ended_for_it_with_all_it_had_written(
    store: Path, client: MlflowClient, tmp_path: Path, parent: str
) -> None:
    folder = tmp_path / "0"
    tracker = MLflowTracker(store, "gantry", folder, parent_run_id=parent)
    tracker.log_metrics({"loss": 1.0}, 1)
    assert tracker.wait_for_run(30)
    local = FolderTracker(folder)
    for step in (1, 2):
        local.log_metrics({"loss": float(step)}, step)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # killed here
    (folder / "log.txt").write_text("the whole log")
    while not client.get_metric_history(str(tracker.run_id), "loss"):
        pass
    settle(store, "gantry", parent, ended(folder, "KILLED", "killed by SIGKILL"))
    (run,) = children(client, parent)
    assert (run.info.run_id, run.info.status) == (tracker.run_id, "KILLED")
    assert run.data.tags["gantry.reason"] == "killed by SIGKILL"
    assert run.data.tags["gantry.log_tail"] == "the last line"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [1, 2]
    assert "log.txt" in [file.path for file in client.list_artifacts(run.info.run_id)]
    tracker.close("KILLED")


def test_a_job_that_died_before_it_had_a_run_gets_one(
    store: Path, client: MlflowClient, tmp_path: Path, parent: str
) -> None:
    folder = tmp_path / "3_wgan_digits"
    local = FolderTracker(folder)
    local.log_params({"seed": 7})
    local.set_tags({"variant": "wgan"})
    local.log_metrics({"loss": float("nan")}, 1)
    for _ in range(2):  # a second look changes nothing
        settle(store, "gantry", parent, ended(folder, "FAILED", "exit code 3"))
    (run,) = children(client, parent)
    assert (run.info.run_name, run.info.status) == ("3_wgan_digits", "FAILED")
    assert run.data.params == {"seed": "7"}
    assert run.data.tags["variant"] == "wgan"
    assert run.data.tags["gantry.reason"] == "exit code 3"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [1]
    assert json.loads((folder / "mlflow_run.json").read_text())["run_id"] == run.info.run_id


@pytest.mark.parametrize("name", ["5_wgan_digits", 'it\'s "5" of 100%'])
def test_a_later_attempt_without_a_run_of_its_own_replaces_the_one_before(
    store: Path, client: MlflowClient, tmp_path: Path, parent: str, name: str
) -> None:
    settle(store, "gantry", parent, ended(other := tmp_path / "another", "FAILED", "exit code 3"))
    (folder := tmp_path / name).mkdir()
    for _ in range(2):
        settle(store, "gantry", parent, ended(folder, "FAILED", "exit code 3"))
        (folder / "mlflow_run.json").unlink()  # set aside with all else
    superseded = [run.data.tags.get("gantry.superseded") for run in children(client, parent)]
    assert sorted(superseded, key=str) == [None, None, "true"]
    kept = json.loads((other / "mlflow_run.json").read_text())["run_id"]
    assert "gantry.superseded" not in client.get_run(kept).data.tags


def test_a_job_that_ended_itself_is_left_alone(store: Path, client: MlflowClient, tmp_path: Path, parent: str) -> None:
    tracker = MLflowTracker(store, "gantry", tmp_path / "0", parent_run_id=parent)
    tracker.close("FINISHED")
    before = client.get_run(str(tracker.run_id))
    settle(store, "gantry", parent, ended(tmp_path / "0", "FINISHED"))
    assert client.get_run(str(tracker.run_id)).to_dictionary() == before.to_dictionary()


def test_a_job_whose_store_was_away_is_delivered_by_the_sweep(
    store: Path, client: MlflowClient, tmp_path: Path, parent: str
) -> None:
    folder = tmp_path / "0"
    for name, status in (("0", "FINISHED"), ("1", "KILLED")):
        away = MLflowTracker(
            "http://127.0.0.1:9", "gantry", tmp_path / name, run_name=name, parent_run_id=parent, close_timeout=0.0
        )
        away.log_metrics({"loss": 1.0}, 1)
        away.close("FINISHED")
        settle(store, "gantry", parent, ended(folder.with_name(name), status))
    runs = {run.info.run_name: run for run in children(client, parent)}
    assert {name: run.info.status for name, run in runs.items()} == {"0": "FINISHED", "1": "KILLED"}
    assert [len(client.get_metric_history(run.info.run_id, "loss")) for run in runs.values()] == [1, 1]


def test_no_run_of_a_sweep_that_has_ended_stays_running(
    store: Path, client: MlflowClient, tmp_path: Path, parent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gantry.runs.tracking.store.PAGE", 1)  # however many they are
    lost = MLflowTracker(store, "gantry", tmp_path / "0", parent_run_id=parent)
    assert lost.wait_for_run(30)
    said = MLflowTracker(store, "gantry", tmp_path / "1", parent_run_id=parent, tags={"gantry.folder": tmp_path / "1"})
    assert said.wait_for_run(30)
    FolderTracker(tmp_path / "1").close("FINISHED")
    close_children(store, "gantry", parent)
    ends = {run.info.run_id: (run.info.status, run.data.tags.get("gantry.reason")) for run in children(client, parent)}
    wordless = "its process ended without a word: killed, or out of memory"
    assert ends == {lost.run_id: ("KILLED", wordless), said.run_id: ("FINISHED", None)}
    lost.close("KILLED")
    said.close("FINISHED")


def test_the_next_start_closes_what_dead_processes_left_running(
    store: Path, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = {}
    for name in ("dead", "alive", "elsewhere"):
        folder = tmp_path / name
        if name != "elsewhere":
            folder.mkdir()
            (folder / ".lock").touch()
        runs[name] = open_parent(store, "gantry", name, [], folder)
        assert runs[name] is not None
        client.update_run(runs[name], status="RUNNING")  # the next one's start closed it: its lock is free
    with held(tmp_path / "alive", "the run in"):
        client.update_run(runs["alive"], status="RUNNING")
        tracker = MLflowTracker(store, "gantry", tmp_path / "new")
        tracker.close("FINISHED")
        found = {name: client.get_run(str(run)) for name, run in runs.items()}
    assert {name: run.info.status for name, run in found.items()} == {
        "dead": "KILLED",
        "alive": "RUNNING",
        "elsewhere": "RUNNING",
    }
    assert found["dead"].data.tags["gantry.reason"] == "its process ended without a word: killed, or out of memory"
    assert "had been left RUNNING" in caplog.text
