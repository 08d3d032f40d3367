"""A store in a folder keeps its files there, wherever the folder is copied or moved, and whatever it is called."""

import logging
import shutil
import sqlite3
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from sqlalchemy.engine import make_url

from gantry.runs.sweep_record import JobRecord, SweepRecord, load_sweep
from gantry.runs.tracking.carried import carried
from gantry.runs.tracking.identity import new_plan, read_plan, write_plan
from gantry.runs.tracking.store import check_store, locate, prepare_store, ui_command, where_tracked


def addresses(store: Path) -> set[str]:
    """All addresses of files in a store."""
    columns = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
    rows = sqlite3.connect(store / "mlflow.db")
    found = {row[0] for table, column in columns.items() for row in rows.execute(f"SELECT {column} FROM {table}")}
    return found | {row[0] for row in rows.execute("SELECT storage_location FROM model_versions")}


def outside(store: Path) -> set[str]:
    return {address for address in addresses(store) if not address.startswith(store.as_uri())}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose store holds a run with a file, a model of it and a registered version."""
    root = tmp_path_factory.mktemp("project")
    client, experiment = prepare_store(root / "mlruns", "gantry")
    log_file(client, experiment, root)
    run_id = client.search_runs([experiment])[0].info.run_id
    model = client.create_logged_model(experiment, "generator", source_run_id=run_id)
    client.log_model_artifact(model.model_id, str(root / "note.txt"))
    client.create_registered_model("faces")
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        client.create_model_version("faces", f"models:/{model.model_id}", run_id, model_id=model.model_id)
    finally:
        mlflow.set_tracking_uri(None)
    return root


def log_file(client: MlflowClient, experiment: str, root: Path) -> None:
    (root / "note.txt").write_text("a note")
    client.log_artifact(client.create_run(experiment).info.run_id, str(root / "note.txt"))


def files(root: Path) -> list[Path]:
    return list((root / "mlruns").rglob("note.txt"))


def test_a_copied_project_writes_into_its_own_store(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    before = len(files(project))
    with caplog.at_level(logging.WARNING):
        client, experiment = prepare_store(copy / "mlruns", "gantry")
    log_file(client, experiment, copy)
    assert len(files(project)) == before
    assert len(files(copy)) == before + 1
    assert not outside(copy / "mlruns")
    assert not outside(project / "mlruns")
    assert f"copied or moved from {project}/mlruns" in caplog.text
    for run in client.search_runs([experiment]):  # earlier ones show their files too
        assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["note.txt"]


def test_a_moved_project_does_not_make_its_old_folder_anew(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "first")
    check_store(tmp_path / "first" / "mlruns")
    (tmp_path / "first").rename(tmp_path / "second")
    check_store(tmp_path / "second" / "mlruns")
    assert not outside(tmp_path / "second" / "mlruns")
    assert not (tmp_path / "first").exists()


def test_a_renamed_store_is_known_by_the_files_that_came_along(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "mlruns", tmp_path / "mine")
    check_store(tmp_path / "mine")
    (tmp_path / "mine").rename(tmp_path / "yours")
    check_store(tmp_path / "yours")
    assert not outside(tmp_path / "yours")


def test_a_store_that_mlflow_laid_out_is_corrected_too(project: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(project / "mlruns", old)
    (old / "mlflow.db").rename(old / "team.db")
    client, experiment = prepare_store(f"sqlite:///{old}/team.db", "gantry")
    log_file(client, client.create_experiment("team", (old / "mlruns" / "7").as_uri()), tmp_path)
    old.rename(tmp_path / "new")
    client, experiment = prepare_store(f"sqlite:///{tmp_path}/new/team.db", "team")
    log_file(client, experiment, tmp_path)
    assert not old.exists()
    assert len(list((tmp_path / "new" / "mlruns" / "7").rglob("note.txt"))) == 2


def test_files_that_did_not_come_along_keep_their_address(project: Path, tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    shutil.copy(project / "mlruns" / "mlflow.db", tmp_path / "mlruns")
    check_store(tmp_path / "mlruns")
    rows = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")
    (place,) = rows.execute("SELECT artifact_location FROM experiments WHERE name = 'gantry'").fetchone()
    assert place == (tmp_path / "mlruns" / "artifacts").as_uri()
    (run,) = rows.execute("SELECT artifact_uri FROM runs").fetchone()
    assert run.startswith((project / "mlruns").as_uri())


def test_a_place_that_somebody_chose_stays_and_is_said(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    client, _ = prepare_store("mlruns", "gantry")
    big = (tmp_path / "big" / "artifacts").as_uri()
    log_file(client, client.create_experiment("big", big), tmp_path)
    check_store("mlruns")
    chosen = outside(tmp_path / "copy" / "mlruns")
    assert len(chosen) == 2  # of the experiment and of its run
    assert all(address.startswith(big) for address in chosen)
    assert where_tracked("mlruns", "big") == f"tracked in mlruns, experiment big, its files in {big}"
    assert where_tracked("mlruns", "gantry") == "tracked in mlruns, experiment gantry"


def test_a_link_to_a_store_is_the_same_store(project: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(project)
    before = addresses(project / "mlruns")
    check_store(tmp_path / "link" / "mlruns")
    assert addresses(project / "mlruns") == before


def test_a_new_store_has_the_default_experiment_inside(project: Path) -> None:
    rows = sqlite3.connect(project / "mlruns" / "mlflow.db")
    (place,) = rows.execute("SELECT artifact_location FROM experiments WHERE name = 'Default'").fetchone()
    assert place == (project / "mlruns" / "artifacts").as_uri()


@pytest.mark.parametrize("name", ["My%20Project", "50%25", "why?", "a#b", "l'été 日本", "a b", "%"])
def test_a_folder_of_any_name_holds_its_own_store(project: Path, tmp_path: Path, name: str) -> None:
    for folder in dict.fromkeys([name, name.replace("%20", " ").replace("%25", "%")]):
        shutil.copytree(project / "mlruns", tmp_path / folder / "mlruns")
    database = tmp_path / name / "mlruns" / "mlflow.db"
    beside = sorted(tmp_path.iterdir())
    client, experiment = prepare_store(database.parent, "gantry")
    run_id = client.create_run(experiment).info.run_id
    held = sqlite3.connect(database).execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,)).fetchall()
    assert held == [((database.parent / "artifacts" / run_id / "artifacts").as_uri(),)]
    assert sorted(tmp_path.iterdir()) == beside
    address = locate(database.parent).tracking_uri
    assert make_url(address).database == str(database)
    assert locate(address) == locate(database.parent)
    assert Path(ui_command(database.parent).split("sqlite:///")[1].strip("'")).name == "mlflow.db"


def test_a_run_is_told_to_the_store_that_came_along(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for root in (old, new):
        (root / "mlruns").mkdir(parents=True)
        (root / "mlruns" / "mlflow.db").touch()
    run = Path("outputs", "2026-01-01", "10-00-00_dcgan_digits")
    (new / run).mkdir(parents=True)
    write_plan(new_plan(str(old / "mlruns"), "gantry", "run", {"gantry.folder": str(old / run)}), new / run)
    plan = read_plan(new / run)
    assert plan is not None
    assert plan.uri == locate(new / "mlruns").tracking_uri


@pytest.mark.parametrize(
    ("uri", "began", "folder"),
    [
        ("/p/mlruns", "/p/outputs/run", "/p/outputs/run"),  # it stayed
        ("/p/mlruns", None, "/q/outputs/run"),  # a record that does not say where it began
        ("/p/mlruns", "/p/outputs/run", "/q/outputs/run"),  # its store did not come along
        ("http://host:5000", "/p/outputs/run", "/q/outputs/run"),
        ("sqlite:////elsewhere/mlflow.db", "/p/outputs/run", "/q/outputs/run"),
    ],
)
def test_any_other_run_keeps_its_store(uri: str, began: str | None, folder: str) -> None:
    assert carried(uri, began, Path(folder)) == uri


def test_a_sweep_is_taken_up_in_the_store_that_came_along(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for root in (old, new):
        (root / "mlruns").mkdir(parents=True)
        (root / "mlruns" / "mlflow.db").touch()
    sweep = new / "outputs" / "sweep"
    (sweep / "0_dcgan").mkdir(parents=True)
    (sweep / "0_dcgan" / "tags.json").write_text(f'{{"gantry.folder": "{old}/outputs/sweep/0_dcgan"}}')
    record = SweepRecord(sweep, "sweep", [], "id", str(old / "mlruns"), "gantry", [JobRecord(0, [], "0_dcgan")])
    record.save()
    assert load_sweep(sweep).tracking_uri == locate(new / "mlruns").tracking_uri
