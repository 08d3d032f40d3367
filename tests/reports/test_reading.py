"""Runs read back from a database."""

import math

import pytest
from mlflow.entities import Metric

from gantry.reports import mlflow_store
from gantry.reports.mlflow_store import read_runs
from gantry.runs.tracking.query import open_store
from gantry.runs.tracking.store import prepare_store


def test_every_run_is_read_back_as_it_was_logged(mlruns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantry.runs.tracking.store.PAGE", 2)
    monkeypatch.setattr(mlflow_store, "RUNS_A_QUERY", 2)
    client, experiment = prepare_store(mlruns, "read back")
    for number in range(3):
        run_id = client.create_run(experiment, start_time=1 + number, run_name=str(number)).info.run_id
        if number == 1:
            continue  # it logged nothing
        points = ((1.0 + number, 20, 0), (math.nan, 30, 100), (9.0, 41, 50), (4.0, 40, 50))
        logged = [Metric("fid", value, when, step) for value, when, step in points]
        client.log_batch(run_id, [*logged, Metric("final/fid", 0.5, 40, 100)])
    opened = open_store(mlruns, "read back")
    assert opened is not None
    runs = read_runs(opened, opened.search(""))
    assert [run.name for run in runs] == ["0", "1", "2"]
    assert [run.curves.keys() for run in runs] == [{"fid", "final/fid"}, set(), {"fid", "final/fid"}]
    for run in (runs[0], runs[2]):
        curve = run.curves["fid"]
        assert list(curve) == [0, 50, 100]
        assert curve[0] == 1.0 + int(run.name)
        assert curve[50] == 9.0  # the later of two
        assert math.isnan(curve[100])
