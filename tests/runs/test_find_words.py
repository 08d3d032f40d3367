"""The same words name a run or a sweep in every command."""

import json
import os
from types import SimpleNamespace

import pytest
import yaml

from gantry.commands.arguments import run_arguments, sweep_arguments
from gantry.core.config.overrides import quoted
from gantry.core.errors import UserError
from gantry.reports.find import find_compared_runs, find_compared_sweep
from gantry.runs import find as find_module
from gantry.runs.find import NoSuchRun, find_run, find_sweep
from gantry.runs.find_generators import find_generators
from gantry.runs.sweep_record import JobRecord, SweepRecord
from gantry.runs.tracking.query import open_store
from gantry.runs.tracking.store import prepare_store


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A sweep of two jobs and, begun after it, a single run; the second job is the best of all."""
    monkeypatch.chdir(tmp_path)
    day = tmp_path / "outputs" / "2026-01-01"

    def run(folder, number, best):
        (folder / ".hydra").mkdir(parents=True)
        (folder / "generator" / "best").mkdir(parents=True)
        files = {
            "mlflow_run.json": {"run_id": f"id{number}", "run_name": f"run {number}"},
            "tags.json": {"variant": "wgan"},
            "status.json": {"status": "FINISHED"},
            "summary.json": {"primary": "fid", "protocol": {}, "best": {"fid": best}},
        }
        for name, values in files.items():
            (folder / name).write_text(json.dumps(values))
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"seed={number}"]))
        (folder / "config.yaml").write_text("data: {}")
        os.utime(folder / "config.yaml", (number, number))
        return folder

    sweep = day / "00-00-00"
    jobs = [run(sweep / f"{number}_wgan", number, best) for number, best in ((0, 3.0), (1, 1.0))]
    records = [JobRecord(number, [f"seed={number}"], job.name) for number, job in enumerate(jobs)]
    SweepRecord(sweep, "my sweep", ["seed=0,1"], "idsweep", jobs=records).save()
    return SimpleNamespace(sweep=sweep, jobs=jobs, single=run(day / "01-00-00", 2, 2.0))


def nowhere():
    """No store."""


@pytest.mark.parametrize(
    ("word", "which"), [("id0", 0), ("run 1", 1), ("outputs/2026-01-01/00-00-00/0_wgan", 0), ("best", 1), ("latest", 2)]
)
def test_a_run_has_the_same_names_in_every_command(word, which, here, tmp_path):
    folder = [*here.jobs, here.single][which]
    assert find_run(word, [], nowhere) == folder
    assert f"hydra.run.dir={quoted(folder)}" in run_arguments([f"resume={word}"])
    (compared,) = find_compared_runs([word], nowhere)
    assert compared.run_id == f"id{which}"
    (measured,) = find_generators([word], nowhere, tmp_path)
    assert (measured.folder, measured.run_id) == (folder, f"id{which}")


def test_the_latest_run_to_resume_is_none_of_a_refused_command(here):
    refused = here.single.with_name("02-00-00")
    (refused / ".hydra").mkdir(parents=True)
    (refused / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(["steps=abc"]))
    (refused / "train.log").touch()
    assert find_run("latest", [], nowhere) == here.single


@pytest.mark.parametrize(
    "word", ["idsweep", "my sweep", "00-00-00", "outputs/2026-01-01/00-00-00", "latest", "best", "id1", "run 0"]
)
def test_a_sweep_has_the_same_names_in_every_command_and_a_job_names_its_own(word, here, tmp_path):
    assert find_compared_sweep(word, nowhere).folder == here.sweep
    assert find_sweep(word, "sweep.resume", nowhere).folder == here.sweep
    assert f"hydra.sweep.dir={quoted(here.sweep)}" in sweep_arguments([f"sweep.resume={word}"])
    if word in ("idsweep", "my sweep", "00-00-00", "outputs/2026-01-01/00-00-00"):
        assert [run.run_id for run in find_compared_runs([word], nowhere)] == ["id0", "id1"]
        assert [run.folder for run in find_generators([word], nowhere, tmp_path)] == here.jobs
        with pytest.raises(UserError, match=r"is a sweep; sweep\.resume="):
            find_run(word, [], nowhere)


def test_runs_named_twice_are_one(here, tmp_path):
    words = ["my sweep", "id1", "latest"]
    assert [run.run_id for run in find_compared_runs(words, nowhere)] == ["id0", "id1", "id2"]
    assert [run.run_id for run in find_generators(words, nowhere, tmp_path)] == ["id0", "id1", "id2"]


def test_a_single_run_is_of_no_sweep(here):
    with pytest.raises(UserError, match=r"sweep=id2: outputs/.*01-00-00 holds no sweep, which has a sweep\.json"):
        find_sweep("id2", "sweep", nowhere)


def test_of_what_is_not_there_the_newest_are_named(here, tmp_path):
    for find in (
        lambda: find_run("x", [], nowhere),
        lambda: find_compared_runs(["x"], nowhere),
        lambda: find_generators(["x"], nowhere, tmp_path),
    ):
        with pytest.raises(NoSuchRun, match=r"=x: no such run \(a folder, .*; the newest:\n  outputs/2026-01-01/01-00"):
            find()
    with pytest.raises(NoSuchRun, match=r"=x: no such sweep \(a folder, .*; the newest:\n  outputs/.*/00-00-00$"):
        find_sweep("x", "sweep", nowhere)


def test_what_only_mlflow_has_is_found_by_id_and_name_the_latest_of_several(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client, experiment = prepare_store("mlruns", "gantry")
    parent = client.create_run(experiment, run_name="theirs", tags={"gantry.kind": "sweep"}).info.run_id
    tags = {"mlflow.parentRunId": parent, "gantry.folder": "/elsewhere"}
    runs = [
        client.create_run(experiment, run_name="it's a job", tags=tags, start_time=start).info.run_id
        for start in (1000, 2000)
    ]

    def store():
        return open_store("mlruns", "gantry")

    assert [run.run_id for run in find_compared_runs(["it's a job"], store)] == runs[1:]
    assert [run.run_id for run in find_compared_runs(["theirs"], store)] == runs
    for word in (parent, "theirs", runs[0], "latest", None):
        found = find_compared_sweep(word, store)
        assert (found.folder, found.tracked and found.tracked.info.run_id) == (None, parent)
    with pytest.raises(UserError, match=r"its folder /elsewhere is not on this machine"):
        find_run(runs[0], [], store)
    with pytest.raises(UserError, match="none of the sweep's 2 runs has exported a generator"):
        find_generators(["theirs"], store, tmp_path / "cache")


def test_the_best_names_what_was_measured_otherwise_and_how_to_choose_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for hour, (images, value) in enumerate([(2000, 4.66), (500, 23.18), (500, 30.0)]):
        folder = tmp_path / "outputs" / "2026-01-01" / f"0{hour}-00-00"
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text("[]")
        (folder / "mlflow_run.json").write_text("{}")
        summary = {"primary": "fid", "best": {"fid": value}, "protocol": {"n_generated": images}}
        (folder / "summary.json").write_text(json.dumps(summary))
        os.utime(folder, (hour, hour))
    find_module.find("best", "run", lambda folder: (folder / "summary.json").exists(), nowhere)
    assert capsys.readouterr().out == (
        "run=outputs/2026-01-01/01-00-00: the lowest best/fid, 23.18, of 2 runs measured alike; 1 measured otherwise "
        "are left out, the newest with best/fid 4.66 on 2000 images: run=outputs/2026-01-01/00-00-00 takes it, "
        "run=<a sweep's folder>/<job> one of a sweep\n"
    )
