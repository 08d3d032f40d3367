"""What a run left while the store was away is delivered later, once, whatever happened to its process."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from gantry.core.processes.locks import held
from gantry.runs.folder import rewind
from gantry.runs.tracking.deliver import deliver, main
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.session import RunSession
from gantry.runs.tracking.status import WORDLESS
from gantry.runs.tracking.store import prepare_store
from gantry.runs.tracking.tracker import DatasetInfo, Trackers, rolled_back

AWAY = "http://someone:hunter2@127.0.0.1:9"  # nothing listens there
DIGITS = DatasetInfo("digits", "d" * 64, "sklearn.datasets.load_digits", "train", 1797, (16, 16, 1), 10)


@pytest.fixture(scope="module")
def client(store: Path) -> MlflowClient:
    return prepare_store(store, "gantry")[0]


def logs(folder: Path, uri: str | Path = AWAY, steps: range = range(1, 4), **options: Any) -> Trackers:
    """A run's record as training keeps it, after some steps."""
    local = FolderTracker(folder)
    local.log_params({"seed": 0})
    options = {"params": {"seed": 0}, "dataset": DIGITS, "tags": {"gantry.folder": folder}} | options
    tracker = Trackers(local, MLflowTracker(uri, "gantry", folder, close_timeout=0.0, **options))
    config = folder / "config.yaml"
    config.write_text("n_critic: 5")
    tracker.log_artifact(config)
    for step in steps:
        tracker.log_metrics({"loss": step / 2}, step)
        tracker.log_image(np.full((4, 4, 3), step, np.uint8), "samples", step)
    return tracker


def in_a_process_that_is_killed(
    folder: Path, then: Callable[[Trackers], None] = lambda _: None, **options: Any
) -> None:
    """`logs`, in a process that SIGKILL ends while it holds the folder."""

    def work() -> None:
        with held(folder, "the run in"):
            then(logs(folder, **options))
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def read(client: MlflowClient, folder: Path) -> Run:
    return client.get_run(json.loads((folder / "mlflow_run.json").read_text())["run_id"])


def losses(client: MlflowClient, run: Run) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]


def images(client: MlflowClient, run: Run) -> list[int]:
    files = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    return sorted(int(path.split("+")[2]) for path in files if path.endswith(".png"))


def is_whole(client: MlflowClient, run: Run, last: int = 3) -> None:
    assert losses(client, run) == [(step, step / 2) for step in range(1, last + 1)]
    assert images(client, run) == list(range(1, last + 1))
    assert run.data.params == {"seed": "0"}
    assert [given.dataset.name for given in run.inputs.dataset_inputs] == ["digits"]
    assert "config.yaml" in [file.path for file in client.list_artifacts(run.info.run_id)]


def test_a_run_whose_store_was_away_is_delivered_later(
    store: Path, client: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs(tmp_path / "run").close("FAILED", "out of memory")
    for _ in range(2):  # a second time changes nothing
        assert main([str(tmp_path), f"tracking.uri={store}"]) == 0
    run = read(client, tmp_path / "run")
    is_whole(client, run)
    assert (run.info.status, run.data.tags["gantry.reason"]) == ("FAILED", "out of memory")
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'run'}: 10 events delivered",
        "nothing is left to deliver",
    ]
    assert not list((tmp_path / "run").glob("undelivered*"))


def test_a_process_killed_while_the_store_is_away_loses_nothing(
    store: Path, client: MlflowClient, tmp_path: Path
) -> None:
    in_a_process_that_is_killed(tmp_path)
    with (tmp_path / "undelivered.jsonl").open("a") as file:
        file.write('{"kind": "metr')  # killed here
    FolderTracker(tmp_path).log_metrics({"loss": 2.0}, 4)  # the folder's record is the first to be written
    deliver(tmp_path, str(store))
    run = read(client, tmp_path)
    assert losses(client, run) == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert images(client, run) == [1, 2, 3]
    assert (run.info.status, run.data.tags["gantry.reason"]) == ("KILLED", WORDLESS)


def test_delivering_can_be_killed_at_any_request(
    store: Path, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every two attempts die a request later than those before, once that request has been answered."""
    in_a_process_that_is_killed(tmp_path, steps=range(1, 3))
    send, connect = RunSession.send, RunSession.connect
    left = 0

    def counted(call: Callable[..., None]) -> Callable[..., None]:
        def dies(*arguments: Any) -> None:
            nonlocal left
            call(*arguments)
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        return dies

    monkeypatch.setattr(RunSession, "connect", counted(connect))
    monkeypatch.setattr(RunSession, "send", counted(send))
    monkeypatch.setattr("gantry.runs.tracking.session.write_plan", lambda *_: None)  # the id is not noted either
    for attempt in range(100):
        left = attempt // 2
        try:
            deliver(tmp_path, str(store))
            break
        except KeyboardInterrupt:
            pass
    assert attempt >= 8
    monkeypatch.undo()
    (experiment,) = client.search_experiments(filter_string="name = 'gantry'")
    mine = f"tags.`gantry.folder` = '{tmp_path}'"
    (run,) = client.search_runs([experiment.experiment_id], mine)  # known again by its tag
    is_whole(client, client.get_run(run.info.run_id), last=2)
    assert run.info.status == "KILLED"


def test_a_run_taken_up_again_delivers_the_earlier_attempt_first(
    store: Path, client: MlflowClient, tmp_path: Path
) -> None:
    in_a_process_that_is_killed(tmp_path)
    rewind(tmp_path, 2)
    tracker = logs(tmp_path, store, range(3, 6), goes_on=True)  # from a checkpoint of step 2
    assert tracker._trackers[1].wait_for_run(30)  # type: ignore[attr-defined]
    tracker._trackers[1]._close_timeout = 30.0  # type: ignore[attr-defined]
    tracker.close("FINISHED")
    run = read(client, tmp_path)
    is_whole(client, run, last=5)
    assert run.info.status == "FINISHED"
    assert "gantry.reason" not in run.data.tags


@pytest.mark.slow
def test_a_run_taken_up_again_in_another_store_begins_there_with_all_it_has(
    store: Path, client: MlflowClient, tmp_path: Path
) -> None:
    logs(tmp_path).close("KILLED")
    record = json.loads((tmp_path / "mlflow_run.json").read_text())
    (tmp_path / "mlflow_run.json").write_text(json.dumps(record | {"run_id": "0" * 32, "gantry.id": "unknown"}))
    (tmp_path / "undelivered.jsonl").unlink(missing_ok=True)
    tracker = MLflowTracker(store, "gantry", tmp_path, continues="0" * 32)
    tracker.log_metrics({"loss": 2.0}, 4)
    tracker.close("FINISHED")
    run = read(client, tmp_path)
    assert losses(client, run) == [(step, step / 2) for step in range(1, 5)]
    assert images(client, run) == [1, 2, 3]
    assert run.data.params == {"seed": "0"}


def test_steps_repeated_after_a_rollback_stand_beside_the_first(
    store: Path, client: MlflowClient, tmp_path: Path
) -> None:
    """A run killed after that repeats none of them."""

    def back_to_one(tracker: Trackers) -> None:
        tracker.set_tags(rolled_back(1))
        tracker.log_metrics({"loss": 10.0}, 2)

    in_a_process_that_is_killed(tmp_path, back_to_one)
    rewind(tmp_path, 1)
    tracker = MLflowTracker(store, "gantry", tmp_path, goes_on=True)
    for step in (2, 3, 4):
        tracker.log_metrics({"loss": 10.0 * step}, step)
    tracker.set_tags(rolled_back(3))
    tracker.log_metrics({"loss": -1.0}, 4)
    tracker.close("FINISHED")
    run = read(client, tmp_path)
    assert sorted(losses(client, run)) == [(1, 0.5), (2, 1.0), (2, 10.0), (3, 1.5), (3, 30.0), (4, -1.0), (4, 40.0)]


@pytest.mark.slow
def test_an_attempt_that_is_delivered_late_does_not_replace_the_later_one(
    store: Path, client: MlflowClient, tmp_path: Path
) -> None:
    tags = {"gantry.folder": "/sweep/7"}
    logs(tmp_path / "earlier", parent_run_id="late", tags=tags).close("FAILED")
    latest = MLflowTracker(store, "gantry", tmp_path, parent_run_id="late", tags=tags)
    assert latest.wait_for_run(30)
    deliver(tmp_path / "earlier", str(store))
    assert client.get_run(str(latest.run_id)).info.status == "RUNNING"
    assert "gantry.superseded" not in client.get_run(str(latest.run_id)).data.tags
    assert read(client, tmp_path / "earlier").data.tags["gantry.superseded"] == "true"
    latest.close("FINISHED")


def test_what_cannot_be_delivered_is_said_and_stays(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gantry.runs.tracking.deliver.PAUSE", 0.0)
    runs = tmp_path / "outputs"
    for name, uri in (("hidden", AWAY), ("away", "http://127.0.0.1:9"), ("running", "http://127.0.0.1:9")):
        logs(runs / name, uri).close("FINISHED")
    with held(runs / "running", "the run in"):
        assert main([]) == 1
    said = capsys.readouterr().out
    assert "hidden: the password of http://***@127.0.0.1:9 is not kept: give tracking.uri=" in said
    assert "away: not delivered: " in said
    assert "running: it is still running" in said
    assert len(said.splitlines()) == len(list(runs.glob("*/undelivered.jsonl"))) == 3
    assert main([f"tracking.uri={AWAY}"]) == 1
    assert "hunter2" not in capsys.readouterr().out
    assert not [path for path in tmp_path.rglob("*.json*") if "hunter2" in path.read_text()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["."], "holds no run that MLflow was to hear of"),
        (["--all"], "--all: no such option"),
        (["uri=http://a:hunter2@b"], "uri=http://***@b: no such option"),
        (["tracking.uri=ftp://a:hunter2@b"], "'ftp' is not a store"),
    ],
)
def test_a_wrong_argument_is_named(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "hunter2" not in said
