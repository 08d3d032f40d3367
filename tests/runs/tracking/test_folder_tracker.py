"""The plain files every run writes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.tracker import Trackers


def test_a_run_in_files(tmp_path: Path) -> None:
    tracker = FolderTracker(tmp_path / "run")
    tracker.log_params({"model.lr": "0.0002"})
    tracker.log_params({"seed": 0})
    tracker.set_tags({"variant": "wgan", "store": "http://me:secret@host"})
    tracker.log_metrics({"loss/generator": 0.5, "fid": math.nan}, 50)
    tracker.log_metrics({"loss/generator": math.inf}, 100)
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    tracker.log_image(image, "samples/ema", 100)
    (tmp_path / "report.md").write_text("table")
    tracker.log_artifact(tmp_path / "report.md", "reports")
    tracker.close("FAILED", "disk at http://me:secret@host")
    tracker.close("FINISHED")

    run = tmp_path / "run"
    assert json.loads((run / "params.json").read_text()) == {"model.lr": "0.0002", "seed": "0"}
    assert json.loads((run / "tags.json").read_text()) == {"variant": "wgan", "store": "http://***@host"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line.pop("time") > 1.7e9 for line in lines] == [True, True]
    assert lines == [
        {"step": 50, "loss/generator": 0.5, "fid": None},
        {"step": 100, "loss/generator": None},
    ]
    assert np.array_equal(np.asarray(Image.open(run / "samples" / "ema" / "0000100.png")), image)
    assert (run / "reports" / "report.md").read_text() == "table"
    status = json.loads((run / "status.json").read_text())
    assert (status["status"], status["reason"]) == ("FAILED", "disk at http://***@host")


def test_grey_images_are_grey_files(tmp_path: Path) -> None:
    image = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
    FolderTracker(tmp_path).log_image(image, "samples", 7)
    stored = Image.open(tmp_path / "samples" / "0000007.png")
    assert stored.mode == "L"
    assert np.array_equal(np.asarray(stored), image[..., 0])


def test_a_line_a_kill_cut_short_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "fid": 2.0}\n{"step": 2, "fi')
    FolderTracker(tmp_path).log_metrics({"fid": 3.0}, 3)
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["fid"] == 3.0


def test_a_full_disk_is_said_once_and_never_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    tracker = FolderTracker(tmp_path)
    for step in range(3):
        tracker.log_metrics({"fid": 1.0}, step)
    tracker.log_metrics({"fid": None}, 4)  # type: ignore[dict-item]
    tracker.close("FINISHED")
    assert [("No space left" in r.message, "log_metrics" in r.message) for r in caplog.records] == [
        (True, True),
        (False, True),
    ]


def test_several_trackers_get_every_call(tmp_path: Path) -> None:
    both = Trackers(FolderTracker(tmp_path / "a"), FolderTracker(tmp_path / "b"))
    both.log_params({"seed": 1})
    both.set_tags({"variant": "wgan"})
    both.log_metrics({"fid": 1.0}, 1)
    both.log_image(np.zeros((2, 2, 3), dtype=np.uint8), "samples", 1)
    (tmp_path / "x.txt").touch()
    both.log_artifact(tmp_path / "x.txt")
    both.close("KILLED")
    names = {"params.json", "tags.json", "metrics.jsonl", "samples", "x.txt", "status.json"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    assert {path.name for path in (tmp_path / "b").iterdir()} == names


def test_what_a_full_disk_did_not_take_is_written_once_it_does(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    tracker = FolderTracker(tmp_path)
    tracker.log_metrics({"fid": 1.0}, 1)
    tracker.log_image(np.zeros((4, 4, 1), dtype=np.uint8), "samples", 1)
    tracker.log_metrics({"fid": 2.0}, 2)
    (tmp_path / "metrics.jsonl").unlink()
    tracker.close("FINISHED")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["fid"]) for line in lines] == [(1, 1.0), (2, 2.0)]
    assert (tmp_path / "samples" / "0000001.png").exists()
    assert (tmp_path / "status.json").exists()
