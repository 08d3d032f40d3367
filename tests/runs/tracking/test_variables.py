"""MLflow's environment variables choose the store, the experiment and the run where nothing else does."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gantry.commands.arguments import run_arguments, sweep_arguments
from gantry.core.config.check import check
from gantry.core.config.options import Train
from gantry.core.errors import UserError
from gantry.runs.sweep_record import SweepRecord
from gantry.runs.tracking import deliver, variables
from gantry.runs.tracking.identity import new_plan, read_plan, write_plan
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.query import configured_store, store_of_run
from gantry.runs.tracking.rules import wrong_store
from gantry.runs.tracking.session import RunSession
from gantry.runs.tracking.store import prepare_store, where_tracked
from gantry.runs.tracking.sweep_run import experiment_name, open_parent
from gantry.sweeps.sweep import Sweep

SERVER = "http://user:hunter2@tracking:5000"


@pytest.fixture
def client(store: Path) -> MlflowClient:
    return prepare_store(store, "gantry")[0]


@pytest.fixture
def given(store: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that `mlflow run` has begun, with a param of its own."""
    experiment = client.get_experiment_by_name("gantry")
    run_id = client.create_run(experiment.experiment_id, run_name="from outside").info.run_id
    client.log_param(run_id, "alpha", "1e-4")
    monkeypatch.setenv(variables.RUN, run_id)
    return run_id


def tracked(store: Path, folder: Path, **options: object) -> MLflowTracker:
    folder.mkdir(exist_ok=True)
    tracker = MLflowTracker(store, "gantry", folder, tags={"variant": "dcgan"}, **options)  # type: ignore[arg-type]
    tracker.log_metrics({"fid": 2.0}, 10)
    tracker.close("FINISHED")
    return tracker


def test_the_variables_stand_where_nothing_else_is_given(config, monkeypatch):
    monkeypatch.setenv(variables.URI, SERVER)
    monkeypatch.setenv(variables.NAME, "team")
    tracking = config("tracking=mlflow").tracking
    assert (tracking.uri, tracking.experiment) == (SERVER, "team")
    tracking = config("tracking=mlflow", "tracking.uri=mine", "tracking.experiment=gantry").tracking
    assert (tracking.uri, tracking.experiment) == ("mine", "gantry")
    assert config().tracking == {}


def test_an_empty_variable_is_none(config, monkeypatch, tmp_path):
    for name in (variables.URI, variables.NAME, variables.ID, variables.RUN):
        monkeypatch.setenv(name, "")
    variables.drop_empty()
    tracking = config("tracking=mlflow").tracking
    assert (tracking.uri, tracking.experiment) == (f"{tmp_path}/mlruns", "gantry")
    assert variables.assigned_run() is None


def test_the_start_says_where_and_why_without_secrets(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert where_tracked(tmp_path / "mlruns", "gantry") == "tracked in mlruns, experiment gantry"
    monkeypatch.setenv(variables.URI, SERVER)
    monkeypatch.setenv(variables.NAME, "team")
    said = "tracked in http://***@tracking:5000, experiment team (MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME)"
    assert where_tracked(SERVER, "team") == said


@pytest.mark.parametrize(("uri", "said"), [("databricks", "service"), ("file:///tmp/mlruns", "'file' is not a store")])
def test_a_variable_that_names_no_store_is_refused_by_name(config, monkeypatch, uri, said):
    monkeypatch.setenv(variables.URI, uri)
    with pytest.raises(UserError, match=rf"tracking\.uri \(from MLFLOW_TRACKING_URI\).*{said}"):
        check(config("tracking=mlflow", "tracking.run_name=run"), Train, (wrong_store,))


def test_an_experiment_is_found_by_its_id(store, client, monkeypatch, tmp_path):
    wanted = client.get_experiment_by_name("gantry").experiment_id
    monkeypatch.setenv(variables.ID, wanted)
    assert variables.experiment() == wanted
    assert prepare_store(store, wanted)[1] == wanted
    assert experiment_name(store, wanted) == "gantry"
    folder = tmp_path / "run"
    folder.mkdir()
    MLflowTracker(store, wanted, folder).close("FINISHED")
    assert json.loads((folder / "mlflow_run.json").read_text())["experiment"] == "gantry"
    monkeypatch.setenv(variables.ID, "4711")
    with pytest.raises(UserError, match="MLFLOW_EXPERIMENT_ID=4711: no such experiment"):
        prepare_store(store, "4711")
    monkeypatch.delenv(variables.ID)
    assert prepare_store(store, "4711")[1] != "4711"  # typed, it is a name


def test_an_id_stays_one_until_the_store_has_told_the_name(store, client, monkeypatch, tmp_path):
    """The run is delivered later, where the variable is not set."""
    wanted = client.get_experiment_by_name("gantry").experiment_id
    monkeypatch.setenv(variables.ID, wanted)
    write_plan(new_plan(store, wanted, None, {}), tmp_path)
    monkeypatch.delenv(variables.ID)
    plan = read_plan(tmp_path)
    assert (plan.experiment, plan.by_id) == (wanted, True)
    session = RunSession(plan, tmp_path, lives=False)
    session.connect()
    assert client.get_run(session.run_id).info.experiment_id == wanted
    assert client.get_experiment_by_name(wanted) is None
    assert (read_plan(tmp_path).experiment, read_plan(tmp_path).by_id) == ("gantry", False)


@pytest.mark.parametrize("by_id", [True, False])
def test_a_run_that_goes_on_keeps_an_id_as_one(monkeypatch, by_id):
    for name in (variables.URI, variables.NAME, variables.ID, variables.KEPT):
        monkeypatch.setenv(name, "other")
    variables.keep(SERVER, "7", by_id)
    assert variables.experiment() == "7"
    assert variables.is_id("7") is by_id


def test_the_run_that_was_begun_for_this_one_holds_it(store, client, given, tmp_path):
    tracker = tracked(store, tmp_path / "run", params={"alpha": "0.0001", "steps": "5"}, adopts=given)
    run = client.get_run(given)
    assert tracker.run_id == given
    assert run.info.run_name == "from outside"
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"fid": 2.0}
    assert run.data.params == {"alpha": "1e-4", "steps": "5"}
    assert json.loads(run.data.tags["gantry.changed"]) == {"alpha": "0.0001"}
    assert run.data.tags["variant"] == "dcgan"
    assert not (tmp_path / "run" / "undelivered.jsonl").exists()


def test_it_holds_one_run_only(store, client, given, tmp_path, caplog):
    tracked(store, tmp_path / "first", adopts=given)
    second = tracked(store, tmp_path / "second", params={"steps": "7"}, adopts=given)
    assert second.run_id != given
    assert client.get_run(second.run_id).data.params == {"steps": "7"}
    assert "holds a run of Gantry's already: it gets one of its own" in caplog.text


def test_a_run_of_another_store_is_not_this_ones(store, client, tmp_path, caplog):
    tracker = tracked(store, tmp_path / "run", params={"steps": "7"}, adopts="0" * 32)
    assert client.get_run(tracker.run_id).data.params == {"steps": "7"}
    assert f"is not in {store}: it gets one of its own" in caplog.text


def test_it_is_the_sweeps_and_no_jobs(store, client, given, tmp_path):
    assert open_parent(store, "gantry", "sweep", ["model=wgan,dcgan"], tmp_path) == given
    tags = client.get_run(given).data.tags
    assert (tags["gantry.kind"], tags["overrides"]) == ("sweep", "model=wgan,dcgan")
    sweep = Sweep(SweepRecord(tmp_path, "sweep", [], given), False, True)
    try:
        assert sweep.environment == {"GANTRY_PARENT_RUN": given, "MLFLOW_RUN_ID": ""}
    finally:
        sweep._open.close()
    again = open_parent(store, "gantry", "sweep", [], tmp_path)
    assert again != given


def begun(folder: Path, uri: str, experiment: str = "gantry") -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- steps=5\n")
    (folder / "status.json").write_text('{"status": "KILLED", "reason": null, "time": 0}')
    write_plan(new_plan(uri, experiment, "run", {"gantry.folder": str(folder)}), folder)
    return folder


@pytest.mark.parametrize(("uri", "kept"), [("http://first:5000", "http://first:5000"), ("mlruns", None)])
def test_a_run_goes_on_in_its_store(tmp_path, monkeypatch, uri, kept, config):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").touch()
    folder = begun(tmp_path / "run", uri, "mine")
    monkeypatch.setenv(variables.URI, "http://other:5000")
    monkeypatch.setenv(variables.NAME, "other")
    arguments = run_arguments([f"resume={folder}"])
    tracking = config("tracking=mlflow").tracking
    assert (tracking.uri, tracking.experiment) == (kept or str(tmp_path / "mlruns"), "mine")
    assert "(" not in where_tracked(tracking.uri, tracking.experiment)
    assert not any(text.startswith("tracking.") for text in arguments)  # they would be taken for the run's own


def test_a_store_with_a_password_is_that_of_the_variable(tmp_path, monkeypatch):
    SweepRecord(tmp_path, "sweep", ["seed=0,1"], "id", SERVER, "gantry").save()
    with pytest.raises(
        UserError, match=r"password was not kept; give tracking\.uri=\.\.\. again, or MLFLOW_TRACKING_URI"
    ):
        sweep_arguments([f"sweep.resume={tmp_path}"])
    monkeypatch.setenv(variables.URI, SERVER)
    assert not any("***" in text for text in sweep_arguments([f"sweep.resume={tmp_path}"]))


def test_delivering_says_that_the_variable_names_another_store(store, tmp_path, monkeypatch, capsys):
    tracked(store, tmp_path / "run")
    (tmp_path / "run" / "undelivered.jsonl").write_text('{"kind": "tags", "values": {"late": "true"}}\n')
    monkeypatch.setenv(variables.URI, "http://other:5000")
    assert deliver.main([str(tmp_path / "run")]) == 0
    assert "in which the run began (MLFLOW_TRACKING_URI names another" in capsys.readouterr().out


def test_a_run_is_found_in_the_store_in_which_it_began(store, tmp_path):
    prepare_store(store, "gantry")
    shutil.copytree(store, tmp_path / "other")
    run_id = tracked(store, tmp_path / "run").run_id
    found = store_of_run(run_id, [str(tmp_path / "other"), str(store)], "gantry")
    assert found is not None
    assert found.uri == str(store)


def test_a_store_of_the_variable_without_the_experiment_hides_no_folders(store, monkeypatch, caplog):
    monkeypatch.setenv(variables.URI, str(store))
    prepare_store(store, "gantry")
    with caplog.at_level(logging.WARNING):
        assert configured_store({"uri": str(store), "experiment": "absent"}, needed=False) is None
    assert "absent: not in" in caplog.text
    with pytest.raises(UserError, match="absent: not in"):
        configured_store({"uri": str(store), "experiment": "absent"})
