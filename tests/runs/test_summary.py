"""The last lines of a run name the one picture to open."""

import json
from dataclasses import replace

import pytest

from gantry.runs.summary import Summary

PROTOCOL = {"n_generated": 64, "n_real": 512, "split": "all", "extractor": "classifier", "extractor_sha256": "0" * 64}


@pytest.fixture
def summary(tmp_path, monkeypatch):
    def of(best_step, *drawn):
        for step in drawn:
            (tmp_path / "run" / "samples").mkdir(parents=True, exist_ok=True)
            (tmp_path / "run" / "samples" / f"{step:07d}.png").touch()
        values = {"fid": 1.0}
        budget = {"steps": 30, "images": 300, "seconds": 1.0, "evaluation_seconds": 1.0}
        metrics = {"primary": "fid", "first": values, "best": values, "best_step": best_step, "final": values}
        return Summary(
            "dcgan", "digits", **budget, **metrics, protocol=PROTOCOL, folder=tmp_path / "run", tracking_uri=None
        )

    monkeypatch.chdir(tmp_path)
    return of


@pytest.mark.parametrize(
    ("best_step", "drawn", "named"),
    [
        (20, (0, 10, 20, 30), "0000020"),
        (20, (0, 9999999, 10000000), "10000000"),  # a full disk has refused the best one
        (0, (0, 10, 30), "0000030"),  # no value was finite
    ],
)
def test_the_last_line_names_the_best_picture_there_is(summary, best_step, drawn, named):
    last = summary(best_step, *drawn).text().splitlines()[-1]
    assert last == f"look at    run/samples/{named}.png"


def test_without_a_picture_none_is_named(summary):
    assert "look at" not in summary(20).text()


def test_a_job_of_a_sweep_names_its_picture_too(summary):
    assert summary(20, 20).text(in_sweep=True).splitlines()[-1] == "look at    run/samples/0000020.png"


def test_a_tracked_run_names_its_page(summary, tmp_path):
    done = replace(summary(20, 20), tracking_uri="http://user:secret@host:5000")
    (tmp_path / "run" / "mlflow_run.json").write_text(json.dumps({"run_id": None}))
    assert "#/experiments" not in done.text()
    (tmp_path / "run" / "mlflow_run.json").write_text(json.dumps({"run_id": "abc", "experiment_id": "7"}))
    address = "http://host:5000/#/experiments/7/runs/abc?workflowType=machine_learning"
    assert f"\nruns       {address}\n" in done.text()
    assert "secret" not in done.text()
