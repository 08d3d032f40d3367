"""Which run `resume=` means."""

import json

import pytest
import yaml

from gantry.commands.arguments import run_arguments
from gantry.core.errors import UserError
from gantry.core.processes.locks import held
from gantry.runs.find import find_run
from gantry.runs.folder import write_status


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes a run's folder, of a command line, that ended so."""
    monkeypatch.chdir(tmp_path)

    def run(name, overrides, status=None, run_id=None):
        folder = tmp_path / "outputs" / "2026-01-01" / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
        (folder / "params.json").write_text("{}")
        (folder / "mlflow_run.json").write_text(json.dumps({"run_id": run_id}))
        if status is not None:
            write_status(folder, status, None)
        if status == "FINISHED":
            (folder / "summary.json").write_text("{}")
        return folder

    return run


WGAN = ["model=wgan", "steps=100"]


def resumed(word, arguments=()):
    return find_run(word, arguments, lambda: None)


def test_a_folder_or_an_id(run):
    folder = run("one", WGAN, run_id="0123abc")
    for word in (str(folder), "0123abc", "outputs/2026-01-01/one", "latest"):
        assert resumed(word) == folder
    for unknown in ("0123abd", "outputs/nowhere", ""):
        with pytest.raises(UserError, match=f"resume={unknown}: no such run .*; the newest:\n  outputs/.*one"):
            resumed(unknown)
        with pytest.raises(UserError, match="no such run"):
            run_arguments([f"resume={unknown or '.'}", "tracking.uri=nowhere"])


@pytest.mark.parametrize(("status", "goes_on"), [(None, True), ("KILLED", True), ("FAILED", True), ("FINISHED", False)])
def test_auto_is_an_unfinished_run_of_the_same_command(status, goes_on, run):
    folder = run("one", [*WGAN, "resume=auto"], status)
    run("other", ["model=wgan", "steps=200"])
    given = ["steps=100", "resume=auto", "model=wgan", "tracking.uri=http://elsewhere"]
    assert resumed("auto", given) == (folder if goes_on else None)
    words = run_arguments(given)
    assert (f"resume='{folder}'" in words) == goes_on
    assert "resume=auto" not in words


def test_auto_leaves_a_run_alone_that_is_running(run):
    folder = run("one", WGAN)
    with held(folder, "the run in"):
        assert resumed("auto", WGAN) is None
    assert resumed("auto", WGAN) == folder


def test_auto_in_a_folder_given_is_that_folder(run, tmp_path):
    folder = run("one", [*WGAN, "resume=auto"], "FINISHED")
    run("two", WGAN)
    assert resumed("auto", [*WGAN, f"hydra.run.dir={folder}"]) == folder  # finished, and kept
    assert resumed("auto", [*WGAN, f"hydra.run.dir={tmp_path}/new"]) is None


def test_what_a_run_was_asked_is_asked_again_but_for_what_is_typed_beside(run):
    folder = run("one", [*WGAN, "seed=3"])
    words = run_arguments([f"resume={folder}", "steps=200"])
    assert words[:3] == ["model=wgan", "seed=3", "steps=200"]
    assert f"hydra.run.dir='{folder}'" in words
    with pytest.raises(UserError, match=r"sweep\.resume="):
        run_arguments(["-m", f"resume={folder}"])


def test_a_password_is_asked_for_again(run):
    folder = run("one", ["tracking.uri=http://***@host"])
    with pytest.raises(UserError, match=r"give tracking\.uri=\.\.\. again"):
        run_arguments([f"resume={folder}"])
    assert "tracking.uri=http://me:mine@host" in run_arguments([f"resume={folder}", "tracking.uri=http://me:mine@host"])
