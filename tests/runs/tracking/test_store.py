"""The store is created once and absolute; what cannot be a store is refused by name before training."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gantry.core.errors import UserError
from gantry.runs.tracking.status import restoring
from gantry.runs.tracking.store import check_store, locate, prepare_store, ui_command


def test_four_processes_create_one_store(tmp_path: Path) -> None:
    script = """
        import multiprocessing, sys
        import mlflow
        from gantry.runs.tracking.store import prepare_store

        def create(barrier, results):
            barrier.wait()
            results.put(prepare_store(sys.argv[1], "gantry")[1])

        fork = multiprocessing.get_context("fork")  # MLflow's import, seconds, is paid once
        barrier, results = fork.Barrier(4), fork.Queue()
        jobs = [fork.Process(target=create, args=(barrier, results)) for _ in range(4)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        assert [job.exitcode for job in jobs] == [0, 0, 0, 0]
        assert len({results.get() for _ in jobs}) == 1
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "mlruns")]
    subprocess.run(command, check=True, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"})


def test_artifacts_have_an_absolute_place_beside_the_database(store: Path) -> None:
    client, experiment_id = prepare_store(store, "places")
    assert client.get_experiment(experiment_id).artifact_location == (store / "artifacts").as_uri()
    assert (store / "mlflow.db").is_file()


def test_a_sqlite_address_and_its_folder_are_the_same_store(store: Path) -> None:
    prepare_store(store, "same")
    client, experiment_id = prepare_store(f"sqlite:///{store}/mlflow.db", "same")
    assert client.get_experiment_by_name("same").experiment_id == experiment_id
    assert len([e for e in client.search_experiments() if e.name == "same"]) == 1


@pytest.mark.parametrize("uri", ["sqlite:////{}/mlflow.db", "sqlite://///{}/mlflow.db", "/{}"])
def test_slashes_too_many_lead_to_the_same_store(uri: str, store: Path) -> None:
    # "//a/b" stays as a path, and its address file://a/b names a host: artifacts went to /b
    assert locate(uri.format(store)) == locate(store)


@pytest.mark.parametrize(
    "uri",
    ["http://host:5000", "https://user:pass@host/mlflow", "postgresql://u:p@h/db", "mysql+pymysql://h/db"],
)
def test_servers_are_taken_at_their_word(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_store(uri)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file:///tmp/mlruns", "'file' is not a store"),
        ("htp://user:secret@host", "Valid: a folder, sqlite"),
        ("http://", "names no host"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("", "is empty"),
        (" ", "is empty"),
        ("foo:bar", r"'foo' is not a store.*Valid: a folder.*typed \./foo:bar"),
        ("sqlite:mlflow.db", "'sqlite' is not a store.*Valid: a folder, sqlite:///path"),
        ("databricks", "the service 'databricks' is not a store.*Valid: a folder"),
        ("databricks-uc", "the service 'databricks-uc' is not a store"),
        ("databricks://profile", "the service 'databricks' is not a store"),
        ("localhost:5000", "write http://host:5000"),
        ("127.0.0.1:5000/", "write http://host:5000"),
        ('"http://user:secret@host:5000"', "without quotes or spaces"),
        (" https://host", "without quotes or spaces"),
    ],
)
def test_what_is_no_store_is_refused(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        check_store(uri)
    assert "secret" not in str(error.value)


def test_a_folder_that_is_called_as_an_address_is_taken_where_it_exists(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs:2").mkdir()
    assert locate("runs:2").folder == tmp_path / "runs:2"
    assert locate(tmp_path / "runs:3").folder == tmp_path / "runs:3"
    assert locate("./runs:3").folder == tmp_path / "runs:3"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write the tracking folder .*file/mlruns"):
        check_store(tmp_path / "file" / "mlruns")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("run,fid\n1,2.0\n")
    with pytest.raises(UserError, match="is not an SQLite database"):
        check_store(tmp_path)


def test_a_hidden_password_is_followed_by_what_to_put_there():
    said = "postgresql://***@host/db'  # *** stands for user:password"
    assert ui_command("postgresql://me:secret@host/db").endswith(said)
    assert " --port 5001  # ***" in ui_command("postgresql://me:secret@host/db", 5001)
    assert restoring("mysql://me:secret@host/db", "runs restore").endswith(
        "runs restore  # *** stands for user:password"
    )
    assert "#" not in ui_command("postgresql://host/db")


def test_the_ui_command_opens_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ui_command("mlruns") == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert ui_command("a b").endswith(f"'sqlite:///{tmp_path}/a b/mlflow.db'")
    assert ui_command("http://user:secret@host:5000") == "http://***@host:5000"


def test_git_sees_nothing_of_a_store_in_the_mlruns_folder(tmp_path: Path) -> None:
    ignore = Path(__file__).parents[3] / "mlruns" / ".gitignore"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(ignore, tmp_path / "mlruns")
    check_store(tmp_path / "mlruns")
    for name in ("mlflow.db", ".mlflow.lock"):
        (tmp_path / "mlruns" / name).touch()
    listed = subprocess.run(
        ["git", "-C", str(tmp_path), "status", "--porcelain", "-uall"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split() == ["??", "mlruns/.gitignore"]


def test_mlflow_prints_no_lines_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    prepare_store(tmp_path, "gantry")
    from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT

    assert MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.get() is True
