"""What a sweep says on a terminal: its jobs, the time it takes, its failures, its table."""

import io
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from rich.console import Console
from rich.live import Live

from gantry.commands import train
from gantry.runs.folder import write_status
from gantry.runs.sweep_record import JobRecord, SweepRecord
from gantry.sweeps.job import Job
from gantry.sweeps.progress import LineView, TerminalView, duration, seconds_left
from gantry.sweeps.summary_table import beginning, table

TINY = Path(__file__).with_name("tiny_train.py")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1:01"), (7265, "2:01:05")])
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_on_a_terminal_every_job_has_a_line_that_is_kept_up_to_date(tmp_path):
    main, terminal = pty.openpty()
    command = [sys.executable, str(TINY), "-m", "tracking=none", "seed=0,90", "steps=120"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "110", "LINES": "40"}
    started = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    text, deadline = "", time.time() + 60
    try:
        while time.time() < deadline and (part := os.read(main, 65536)):
            text += part.decode(errors="replace")
    except OSError:  # the other end is closed
        pass
    assert started.wait(timeout=10) == 1
    for word in ("time", "fid", "running", "/120", " left", "0.0", "1 waiting", "ValueError: on purpose"):
        assert word in text, word
    statuses = [json.loads(path.read_text())["status"] for path in sorted(tmp_path.glob("outputs/*/*/*/status.json"))]
    assert statuses == ["FINISHED", "FAILED"]


@pytest.mark.parametrize("width", [20, 200])
def test_the_terminal_shows_names_as_they_are_in_any_width(tmp_path, width):
    """Rich would take brackets for its markup and :words: for pictures."""
    job = Job(JobRecord(0, [], "0", "MIG[bold]77a"), [], OmegaConf.create(), tmp_path, label="a=[red] b=:bug:")
    job.process, job.started = SimpleNamespace(), 1.0
    record = {"step": 1, "steps": 2, "metric": "fid[bold]:bug:", "value": 1.5, "seconds_left": 61.0}
    (tmp_path / "progress.json").write_text(json.dumps(record))
    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=True, color_system=None)
    view = TerminalView([job], Live(console=console))
    console.print(view._table())
    whole = ("a=[red] b=:bug:", "fid[bold]:bug:", "running", "1/2", "1:01 left", "1.5", "GPU", "MIG[bold]77a")
    assert [text for text in whole if text not in shown.getvalue()] == [] or width == 20
    lines = [line.rstrip() for line in shown.getvalue().splitlines() if line.strip()]
    assert max(map(len, lines)) <= width
    assert width > 20 or lines[1] == "0    1/2"  # what has no room is left out, not cut


def planned(*values, **state):
    """Jobs of a sweep, one for each list of overrides."""
    config = OmegaConf.create({"steps": 1500})
    return [
        Job(JobRecord(number, each, str(number)), each, config, Path("x"), **state)
        for number, each in enumerate(values)
    ]


def test_a_sweep_says_first_how_many_jobs_of_what_it_runs_and_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = [["steps=1500", f"model={model}", f"seed={seed}", "sweep.jobs=2"] for model in "ab" for seed in range(12)]
    assert beginning(planned(*values), 2, tmp_path / "outputs" / "sweep").splitlines() == [
        "24 jobs: model=a,b x seed=0,..,11 (12 values); 1,500 generator steps each",
        "2 at a time, in outputs/sweep",
    ]
    assert beginning(planned(["seed=0"]), None, tmp_path / "x").splitlines() == [
        "1 job; 1,500 generator steps each",
        "as many at a time as there is room for on the GPUs, in x",
    ]


def test_the_time_a_sweep_takes_is_known_once_a_job_says_how_long_it_takes(tmp_path):
    jobs = planned(*([f"seed={seed}"] for seed in range(5)))
    for job in jobs[:2]:
        job.process, job.started, job.folder = SimpleNamespace(), time.time() - 60, tmp_path / job.record.folder
        job.folder.mkdir()
    assert seconds_left(jobs) is None
    (jobs[0].folder / "progress.json").write_text(json.dumps({"seconds_left": 40.0}))
    # Of 100 s each: 40 s of the first, all of the second, which does not say, and three more, two at a time.
    assert seconds_left(jobs) == pytest.approx((40 + 100 + 300) / 2, abs=1)
    for job in jobs[:2]:
        job.status, job.ended = "FINISHED", job.started + 100
    assert seconds_left(jobs) is None


def test_what_a_failed_job_says_is_shown_once_in_full(tmp_path, capsys):
    reason = "diverged at step 60: " + "the discriminator's loss is not finite, " * 5
    for log, shown in ((f"a line\n{reason}\n", 1), ("a line\n", 1), ("", 1)):
        job = Job(JobRecord(0, ["seed=0"], "0"), [], OmegaConf.create(), tmp_path / "0", status="FAILED", reason=reason)
        job.folder.mkdir(exist_ok=True)
        (job.folder / "log.txt").write_text(log)
        write_status(job.folder, "FAILED", reason)
        LineView([]).ended(job)
        print(table(SweepRecord(tmp_path, "mine", [], jobs=[job.record])))
        said = " ".join(capsys.readouterr().out.split())
        assert said.count(reason.strip()) == shown
        assert said.count("diverged at step 60") == 2
        assert said.endswith("...")


def test_a_job_that_did_not_finish_shows_what_it_measured(tmp_path):
    folder = tmp_path / "0"
    folder.mkdir()
    write_status(folder, "KILLED", "by hand")
    (folder / "progress.json").write_text(json.dumps({"step": 60, "steps": 100, "metric": "fid", "value": 9.0}))
    lines = [{"fid": 103.98}, {"fid": 7.5, "best/fid": 7.5}, {"fid": 9.0, "best/fid": 7.5}]
    text = "".join(json.dumps(line | {"step": 30 * at, "time": 1.0}) + "\n" for at, line in enumerate(lines))
    (folder / "metrics.jsonl").write_text(text)
    row = table(SweepRecord(tmp_path, "mine", [], jobs=[JobRecord(0, ["seed=0"], "0")])).splitlines()[2]
    assert row.split() == ["0", "seed=0", "KILLED", "60/100", "fid", "103.98", "7.50", "9.00"]


@pytest.mark.parametrize("width", [20, 40, 60, 79, 200])
def test_the_table_of_a_sweep_keeps_to_the_terminal(tmp_path, width):
    jobs = [JobRecord(number, [f"model.generator.width={number}", f"seed={number}"], str(number)) for number in (1, 2)]
    for job in jobs:
        (tmp_path / job.folder).mkdir()
        write_status(tmp_path / job.folder, "FINISHED", None)
        values = {name: {"fid_classifier": 12345.678} for name in ("first", "best", "final")}
        summary = {"primary": "fid_classifier", "steps": 100000, "images_per_second": 123456.0, **values}
        (tmp_path / job.folder / "summary.json").write_text(json.dumps(summary))
    head, *rows, said = table(SweepRecord(tmp_path, "mine", [], jobs=jobs), width).strip("\n").splitlines()
    assert max(map(len, (head, *rows))) <= width
    assert {"job", "run", "best"} <= set(head.split())
    assert ("not shown: images/s" in said) == (width < 100)
    assert ("seed=1" in (rows[0] if rows else said)) or width == 20


def test_the_command_to_go_on_is_said_with_and_without_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(train.checkpoint_files, "newest", lambda folder: None)
    assert train._how_to_go_on(tmp_path) == "stopped before it had a checkpoint; the same command begins it anew"
    monkeypatch.setattr(train.checkpoint_files, "newest", lambda folder: folder)
    assert train._how_to_go_on(tmp_path).endswith(f"resume={tmp_path}")
