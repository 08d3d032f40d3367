"""What a run's own page and description show in MLflow."""

import json

import pytest
from mlflow import MlflowClient

from gantry.core.files import read_json
from gantry.runs.tracking import ui
from gantry.runs.tracking.description import NOTE, RUN, described
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.sweep_run import open_parent


@pytest.fixture
def client(tmp_path):
    return MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")


@pytest.fixture
def track(tmp_path, client):
    """Tracks a run of two evaluations, the first one the better, and returns it and its folder."""
    import numpy as np

    def tracked(parent=None, values=(3.5, 4.5)):
        folder = tmp_path / ("job" if parent else "run")
        folder.mkdir()
        tags = {"variant": "dcgan", "dataset": "digits", "metrics.primary": "fid"}
        tracker = MLflowTracker(
            tmp_path / "mlruns", "gantry", folder, run_name="dcgan-digits-0", tags=tags, parent_run_id=parent
        )
        for step, value in zip((10, 20), values, strict=False):
            tracker.log_image(np.full((8, 8, 1), step, np.uint8), "samples", step)
            tracker.log_metrics({"fid": value, "loss/generator": 1.0, "loss/discriminator": 2.0}, step)
        if values:
            tracker.log_metrics({"best/fid": values[0]}, 10)
            tracker.log_metrics({"final/fid": values[-1]}, 20)
        tracker.close("FINISHED")
        return client.get_run(tracker.run_id), folder

    return tracked


def test_a_runs_description_has_its_best_value_and_the_samples_of_that_step(track, client):
    run, _ = track()
    first, _, picture = run.data.tags[NOTE].split("\n")
    assert first == f"dcgan on digits: fid 3.5 at best, 4.5 at the end; samples at step 10 {RUN}"
    assert picture.startswith("![samples](get-artifact?path=images%2Fsamples%2Bstep%2B10%2B")
    assert picture.endswith(f".png&run_uuid={run.info.run_id})")


def test_a_runs_address_opens_its_first_metric_its_losses_and_its_samples(track, client):
    run, folder = track()
    key = read_json(folder / "mlflow_run.json")["view"]
    view = json.loads(client.get_experiment(run.info.experiment_id).tags[ui.VIEW + key])
    charts = [(chart["type"], chart.get("selectedMetricKeys")) for chart in view["compareRunCharts"]]
    assert charts == [("LINE", ["fid"]), ("LINE", ["loss/discriminator", "loss/generator"]), ("IMAGE", None)]
    assert view["searchFilter"] == f"attributes.run_id = '{run.info.run_id}'"
    assert [part["name"] for part in view["compareRunSections"] if part["display"]] == ["dcgan-digits-0", "Samples"]


def test_a_job_of_a_sweep_has_a_description_and_no_view(track, tmp_path):
    run, folder = track(parent=open_parent(tmp_path / "mlruns", "gantry", "sweep", [], tmp_path))
    assert RUN in run.data.tags[NOTE]
    assert "view" not in read_json(folder / "mlflow_run.json")


def test_a_run_that_measured_nothing_gets_no_description(track):
    run, _ = track(values=())
    assert NOTE not in run.data.tags


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("", ""),
        ("Mine.", "Mine.\n\n"),
        ("Mine.\n\nold <!-- m -->\n\ntable", "Mine.\n\n"),
        ("<!-- m -->\n\nas before 2027", ""),  # the mark stood alone once
    ],
)
def test_what_the_user_wrote_stays_above_a_description(written, kept):
    assert described(written, "<!-- m -->", "new <!-- m -->") == f"{kept}new <!-- m -->"
