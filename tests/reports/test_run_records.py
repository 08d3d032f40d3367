"""A run read back from its folder and from MLflow: the same either way, as far as it got."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_helpers import PARAMS, PROTOCOL, evaluated, grid, log_run, make_job

from gantry.core.config.overrides import split_overrides
from gantry.core.errors import UserError
from gantry.reports.mlflow_store import read_runs
from gantry.reports.run import Run, from_folder
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.mlflow_tracker import MLflowTracker
from gantry.runs.tracking.query import Store, open_store
from gantry.runs.tracking.sweep_run import open_parent
from gantry.runs.tracking.tracker import Trackers

FID = "fid_classifier"


def test_a_killed_run_is_read_as_far_as_it_got(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "0_dcgan", status="KILLED", reason="killed by SIGKILL", stops=150, log="a\nb\n")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 200, "ti')
    run = from_folder(folder)
    assert (run.name, run.status, run.reason, run.log) == ("0_dcgan", "KILLED", "killed by SIGKILL", "a\nb")
    assert list(run.curves[FID]) == [0, 100]
    assert run.last(f"final/{FID}") is None
    assert sorted(run.samples) == [0, 100]
    assert run.primary == FID


def test_what_a_resumed_run_repeated_counts_once(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", stops=100)
    tracker = FolderTracker(folder)
    tracker.log_metrics({FID: 7.0}, 100)
    tracker.log_metrics({FID: math.nan}, 200)
    curve = from_folder(folder).curves[FID]
    assert list(curve) == [0, 100, 200]
    assert curve[100] == 7.0
    assert math.isnan(curve[200])


def test_a_job_without_a_record_says_what_is_known(tmp_path: Path) -> None:
    assert from_folder(tmp_path / "absent").status == "NOT STARTED"
    assert from_folder(make_job(tmp_path / "begun", status=None, stops=50)).status == "RUNNING"
    (tmp_path / "died").mkdir()
    FolderTracker(tmp_path / "died").close("FAILED", "exit code 3")
    (tmp_path / "died" / "log.txt").write_text("no such variant\n")
    died = from_folder(tmp_path / "died", ["model=x"])
    assert (died.status, died.reason, died.log, died.overrides) == (
        "FAILED",
        "exit code 3",
        "no such variant",
        ["model=x"],
    )


def test_metrics_stand_in_one_order_and_spreads_are_none(tmp_path: Path) -> None:
    run = from_folder(make_job(tmp_path / "job"))
    assert run.quality == [FID, "inception_score_classifier", "modes_classifier"]
    assert run.drawn == [*run.quality, "loss/discriminator", "loss/generator", "score/real"]


def test_joined_overrides_come_apart_where_a_key_begins() -> None:
    typed = "model=wgan data.folder=/my data +x.y=[1, 2] ~a/b model/network=mlp"
    assert split_overrides(typed) == ["model=wgan", "data.folder=/my data", "+x.y=[1, 2] ~a/b", "model/network=mlp"]


@pytest.fixture(scope="module")
def tracked(mlruns: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str, Path]:
    """A sweep in a store: a run that finished, its superseded attempt, and one that failed."""
    folder = tmp_path_factory.mktemp("tracked")
    parent = open_parent(mlruns, "records", "sweep tracked", ["model=dcgan"], folder)
    assert parent is not None
    tags = {"variant": "dcgan", "seed": "0", "overrides": "model=dcgan seed=0"} | PROTOCOL
    for name, status, more in (
        ("first", "KILLED", {"gantry.superseded": "true"}),
        ("whole", "FINISHED", {}),
        ("failed", "FAILED", {"gantry.log_tail": "Traceback\nboom"}),
    ):
        job = folder / name
        job.mkdir()
        both = Trackers(
            FolderTracker(job),
            MLflowTracker(mlruns, "records", job, run_name=name, tags=tags | more, params=PARAMS, parent_run_id=parent),
        )
        both.log_params(PARAMS)
        both.set_tags(tags | more)
        both.log_image(grid(0, 100), "real", 0)
        log_run(both, stops=None if status == "FINISHED" else 100, diverges=name == "whole")
        if status == "FINISHED":
            (job / "summary.json").write_text('{"classes": {"0": [0.5, 0.25], "1": [0.5, 0.75]}}')
            both.log_artifact(job / "summary.json")
            for step in (100, 300):
                both.log_metrics({"eval/papers_1a2b3c4d/fid": 7.0 - step / 100}, step)
                record = evaluated(job, {"fid": 7.0 - step / 100}, {"fid": 0.5}, step=step)
                both.log_artifact(record, "evaluations/papers_1a2b3c4d")
            both.log_metrics({"eval/quick_00000000/fid_5k": math.nan}, 300)
            both.set_tags({"eval.quick_00000000": "5,000 against all"})
        both.close(status, None if status == "FINISHED" else "RuntimeError: boom")  # type: ignore[arg-type]
    store = open_store(mlruns, "records")
    assert store is not None
    return store, parent, folder


def test_folder_and_store_tell_the_same(tracked: tuple[Store, str, Path]) -> None:
    store, parent, folder = tracked
    whole, failed = read_runs(store, store.children(parent))
    local = from_folder(folder / "whole")
    assert (whole.name, whole.status, failed.status) == ("whole", "FINISHED", "FAILED")
    assert whole.curves.keys() == local.curves.keys()
    for name, curve in local.curves.items():
        np.testing.assert_equal(whole.curves[name], curve)  # NaN equals NaN
    assert whole.params == local.params
    assert {key: whole.tags[key] for key in PROTOCOL} == PROTOCOL
    assert whole.overrides == local.overrides == ["model=dcgan", "seed=0"]
    assert whole.classes == local.classes == {"0": [0.5, 0.25], "1": [0.5, 0.75]}
    assert sorted(whole.samples) == sorted(local.samples) == [0, 100, 200, 300]
    assert _pixels(whole, 200) == _pixels(local, 200)
    assert whole.real is not None
    assert whole.run_id == local.run_id
    assert abs(whole.started - local.started) < 60


def test_an_evaluation_is_the_same_from_folder_and_store(tracked: tuple[Store, str, Path]) -> None:
    store, parent, folder = tracked
    whole, local = read_runs(store, store.children(parent))[0], from_folder(folder / "whole")
    assert whole.evaluations["papers_1a2b3c4d"] == local.evaluations["papers_1a2b3c4d"]
    assert local.evaluations["papers_1a2b3c4d"].spread == {"fid": 0.5}
    undelivered = whole.evaluations["quick_00000000"]  # its file: all there is to know are curves and tag
    assert (undelivered.protocol, undelivered.step, undelivered.description) == ("quick", 300, "5,000 against all")
    assert math.isnan(undelivered.values["fid_5k"])


def _pixels(run: Run, step: int) -> bytes:
    import io

    return Image.open(io.BytesIO(run.samples[step]())).convert("RGB").tobytes()


def test_a_failed_run_has_its_reason_and_its_log(tracked: tuple[Store, str, Path]) -> None:
    store, parent, _ = tracked
    failed = read_runs(store, store.children(parent))[1]
    assert (failed.reason, failed.log) == ("RuntimeError: boom", "Traceback\nboom")


def test_a_filter_leaves_out_sweeps_and_superseded_attempts(tracked: tuple[Store, str, Path]) -> None:
    store = tracked[0]
    assert [run.info.run_name for run in store.search("")] == ["whole", "failed"]
    assert [run.info.run_name for run in store.search("attributes.status = 'FAILED'")] == ["failed"]
    with pytest.raises(UserError, match="filter: MLflow does not understand 'a b'"):
        store.search("a b")


def test_a_sweep_is_found_by_id_name_and_folder(tracked: tuple[Store, str, Path]) -> None:
    store, parent, folder = tracked
    for wanted in (None, parent, "sweep tracked", str(folder), folder.name):
        found = store.sweep(wanted)
        assert found is not None
        assert found.info.run_id == parent
    assert store.sweep("another") is None
    assert store.get("0" * 32) is None
    for misspelt in ("outputs/2026-01-01/nowhere", "../nowhere", "latest,best"):  # no id at all, which MLflow refuses
        assert store.get(misspelt) is None


def test_looking_creates_nothing(tracked: tuple[Store, str, Path], tmp_path: Path) -> None:
    assert open_store(str(tmp_path / "none"), "gantry") is None
    assert not (tmp_path / "none").exists()
    store = tracked[0]
    with pytest.raises(UserError, match=r"which has Default.*, records"):
        open_store(store.uri, "misspelt")
    assert store.client.get_experiment_by_name("misspelt") is None


def test_a_description_keeps_what_a_user_wrote(tracked: tuple[Store, str, Path], tmp_path: Path) -> None:
    store, parent, _ = tracked
    (tmp_path / "report.html").write_text("<p>")
    store.client.set_tag(parent, "mlflow.note.content", "My own words.")
    for text in ("## Comparison\nfirst", "## Comparison\nsecond"):
        store.publish(parent, "## Comparison", text, [tmp_path / "report.html"], "comparison")
    assert store.client.get_run(parent).data.tags["mlflow.note.content"] == "My own words.\n\n## Comparison\nsecond"
    assert [item.path for item in store.client.list_artifacts(parent, "comparison")] == ["comparison/report.html"]
