"""The parts of a sweep by themselves: what a command line means, where a job has run, how a job's end is judged."""

import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig, OmegaConf
from processes import alive, wait_for

from gantry.commands import arguments
from gantry.core.config.overrides import identity, labels, of_the_run, quoted
from gantry.core.errors import UserError
from gantry.runs import checkpoint_files
from gantry.runs.folder import log_tail, set_aside, state_of, write_status
from gantry.runs.sweep_record import JobRecord, SweepRecord, load_sweep
from gantry.sweeps import launcher
from gantry.sweeps.job import Job, verdict
from gantry.sweeps.progress import LineView
from gantry.sweeps.summary_table import table
from gantry.sweeps.sweep import Sweep


@pytest.mark.parametrize("at", [None, "0", "GPU-8a3f0c11-2222-3333-4444-555555555555,1"])
def test_a_sweeps_table_and_record_name_a_jobs_gpus(tmp_path, capsys, at):
    (tmp_path / "0").mkdir()
    write_status(tmp_path / "0", "KILLED", "by hand")
    jobs = [JobRecord(0, ["seed=0"], "0", at), JobRecord(1, ["seed=1"], "1")]
    SweepRecord(tmp_path, "mine", [], jobs=jobs).save()
    loaded = load_sweep(tmp_path)
    assert [job.device for job in loaded.jobs] == [at, None]
    head, first, *_ = table(loaded).strip().splitlines()
    assert head.split()[:4] == ["job", "run", "status", "GPU" if at else "steps"]
    expected = {None: [], "0": ["0"]}.get(at, ["GPU-8a3f0c11,1"])
    assert first.split() == ["0", "seed=0", "KILLED", *expected]
    LineView([]).started(Job(jobs[0], [], OmegaConf.create(), tmp_path / "0"))
    assert ("on GPU" in capsys.readouterr().out) == (at is not None)


def test_a_full_disk_keeps_the_gpus_of_a_job_off_the_record_and_ends_no_sweep(tmp_path, monkeypatch, caplog):
    record = SweepRecord(tmp_path, "mine", [])
    led = SimpleNamespace(record=record)
    Sweep.record_places(led)
    assert load_sweep(tmp_path) == record
    monkeypatch.setattr(SweepRecord, "save", lambda self: (_ for _ in ()).throw(OSError("No space left on device")))
    Sweep.record_places(led)
    assert "sweep.json cannot be written: No space left on device" in caplog.text


def test_the_record_of_an_older_sweep_names_no_gpus(tmp_path):
    job = {"number": 0, "overrides": ["seed=0"], "folder": "0"}
    (tmp_path / "sweep.json").write_text(json.dumps({"name": "old", "overrides": [], "jobs": [job]}))
    assert load_sweep(tmp_path).jobs == [JobRecord(0, ["seed=0"], "0")]


def test_labels_say_what_sets_jobs_apart():
    jobs = [["experiment=smoke", "model=wgan", "seed=0", "sweep.jobs=2"], ["experiment=smoke", "model=wgan", "seed=1"]]
    assert labels(jobs) == ["seed=0", "seed=1"]
    assert labels(jobs[:1]) == ["experiment=smoke model=wgan seed=0"]
    assert labels([]) == []


def test_the_log_tail_is_what_was_printed_last_without_bars_and_colours(tmp_path):
    bar = "\rdcgan:   0%|          | 0/9 [00:00<?, ?step/s]\rdcgan: 100%|████| 9/9 [00:01<00:00,  7.3step/s]\n"
    (tmp_path / "log.txt").write_text(f"one\n{bar}\x1b[31mtwo\x1b[0m\n\nthree\n")
    assert log_tail(tmp_path) == "one\ntwo\nthree"
    assert log_tail(tmp_path, lines=1) == "three"
    assert log_tail(tmp_path / "nowhere") == ""


@pytest.mark.parametrize(
    ("code", "said", "told", "expected"),
    [
        (0, ("FINISHED", None), None, ("FINISHED", None)),
        (0, ("FINISHED", None), "too late", ("FINISHED", None)),
        (0, None, None, ("FAILED", "ended without a result: the last line")),
        (3, None, None, ("FAILED", "exit code 3: the last line")),
        (1, ("FAILED", "ValueError: no"), None, ("FAILED", "ValueError: no")),
        (-9, None, None, ("KILLED", "killed by SIGKILL (by hand, or for lack of memory)")),
        (-11, None, None, ("KILLED", "killed by SIGSEGV")),
        (143, ("KILLED", "stopped by SIGTERM"), None, ("KILLED", "stopped by SIGTERM")),
        (143, ("KILLED", "stopped by SIGTERM"), "no progress for 9 s", ("KILLED", "no progress for 9 s")),
        (-9, None, "no progress for 9 s", ("KILLED", "no progress for 9 s")),
        (-9, ("FINISHED", None), "no progress for 9 s", ("FINISHED", None)),
    ],
)
def test_a_jobs_end_is_judged_by_its_exit_and_its_word(tmp_path, code, said, told, expected):
    (tmp_path / "log.txt").write_text("the last line\n")
    if said:
        write_status(tmp_path, *said)
    if said == ("FINISHED", None):
        (tmp_path / "summary.json").write_text("{}")
    assert verdict(code, tmp_path, told) == expected


def test_what_taking_up_means_for_a_job(tmp_path):
    assert state_of(tmp_path) == "new"
    (tmp_path / "metrics.jsonl").touch()
    assert state_of(tmp_path) == "continues"  # killed before its first checkpoint
    checkpoint_files.write(tmp_path, 10, b"weights")
    assert state_of(tmp_path) == "continues"
    write_status(tmp_path, "KILLED", "by hand")
    assert state_of(tmp_path) == "continues"
    write_status(tmp_path, "FAILED", "ValueError")
    assert state_of(tmp_path) == "again"
    set_aside(tmp_path)
    assert state_of(tmp_path) == "new"
    assert sorted(path.name for path in (tmp_path / "earlier" / "1").iterdir()) == [
        "checkpoints",
        "metrics.jsonl",
        "status.json",
    ]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    folder = tmp_path / "outputs" / "2026-01-01" / "it's_sweep"
    folder.mkdir(parents=True)
    jobs = [JobRecord(0, ["model=wgan"], "0_wgan_digits")]
    record = SweepRecord(folder, "sweep of mine", ["model=wgan,dcgan", "tracking=none"], "abc123", jobs=jobs)
    record.save()
    monkeypatch.chdir(tmp_path)
    return record


@pytest.mark.parametrize("name", ["outputs/2026-01-01/it's_sweep", "sweep of mine", "abc123", "'abc123'"])
def test_a_sweep_named_alone_is_taken_up_with_its_own_command_line(sweep, name):
    where = quoted(sweep.folder)
    assert arguments.sweep_arguments([f"sweep.resume={name}"]) == [
        "-m",
        "model=wgan,dcgan",
        "tracking=none",
        f"sweep.resume={where}",
        f"hydra.sweep.dir={where}",
    ]


def test_what_is_typed_beside_it_wins(sweep):
    where = quoted(sweep.folder)
    end = [f"sweep.resume={where}", f"hydra.sweep.dir={where}"]
    mine = ["-m", "tracking=none", "model=wgan", *end]
    assert arguments.sweep_arguments(["-m", "model=wgan", "sweep.resume=abc123"]) == mine
    given = ["sweep.resume=abc123", "-m", "sweep.jobs=2"]
    assert arguments.sweep_arguments(given) == ["-m", "model=wgan,dcgan", "tracking=none", "sweep.jobs=2", *end]
    for untouched in (["-m", "model=wgan"], ["model=wgan", "sweep.resume=null"]):
        assert arguments.sweep_arguments(untouched) == untouched


def test_a_sweep_stays_in_its_store_wherever_it_is_taken_up(sweep):
    sweep.overrides, sweep.tracking_uri, sweep.experiment = ["model=wgan,dcgan"], "/its/own/mlruns", "gantry"
    sweep.save()
    given = arguments.sweep_arguments(["sweep.resume=abc123"])
    assert given[1:4] == ["model=wgan,dcgan", "tracking.uri='/its/own/mlruns'", "tracking.experiment='gantry'"]
    assert "tracking.uri='/its/own/mlruns'" not in arguments.sweep_arguments(
        ["sweep.resume=abc123", "tracking.uri=/mine"]
    )


def test_a_sweeps_record_keeps_no_password_and_says_when_it_needs_one(sweep):
    uri = "http://user:hunter2@host:5000"
    sweep.tracking_uri = uri
    sweep.overrides = ["model=wgan,dcgan", f"tracking.uri={uri}"]
    sweep.jobs[0].overrides.append(f"tracking.uri={uri}")
    sweep.save()
    assert "hunter2" not in (sweep.folder / "sweep.json").read_text()
    with pytest.raises(UserError, match=r"the password was not kept; give tracking\.uri=\.\.\. again"):
        arguments.sweep_arguments(["sweep.resume=abc123"])
    given = arguments.sweep_arguments(["sweep.resume=abc123", f"tracking.uri={uri}"])
    assert given[:3] == ["-m", "model=wgan,dcgan", f"tracking.uri={uri}"]
    assert identity(["model=wgan", f"tracking.uri={uri}"]) in load_sweep(sweep.folder).by_identity()


def test_an_unknown_or_damaged_sweep_is_named(sweep, tmp_path):
    with pytest.raises(UserError, match=r"sweep\.resume=nobody: no such sweep[\s\S]*it's_sweep"):
        arguments.sweep_arguments(["-m", "sweep.resume=nobody"])
    (sweep.folder / "sweep.json").write_text('{"name": "cut o')
    with pytest.raises(UserError, match="is damaged"):
        load_sweep(sweep.folder)
    with pytest.raises(UserError, match="holds no sweep"):
        load_sweep(tmp_path)


def test_a_sweeps_record_reads_back_as_it_was(sweep):
    assert load_sweep(sweep.folder) == sweep
    assert sweep.by_identity()[identity(["model=wgan", "sweep.jobs=3"])] == sweep.jobs[0]
    assert identity(["model=dcgan"]) not in sweep.by_identity()


FORKS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(60)
"""


def test_a_process_that_will_not_stop_is_killed_with_its_children(tmp_path, monkeypatch):
    pids = tmp_path / "pids"
    monkeypatch.setattr(Job, "command", [sys.executable, "-c", FORKS, str(pids)])
    job = Job(JobRecord(0, [], "0"), [], OmegaConf.create(), tmp_path)
    leash, ours = os.pipe()
    job.start({}, leash)
    wait_for(lambda: pids.exists() and pids.read_text().count("\n") == 2)
    job.stop("the sweep was stopped", grace=0.5)
    wait_for(job.poll)
    assert (job.status, job.reason) == ("KILLED", "the sweep was stopped")
    assert job.process.returncode == -signal.SIGKILL
    wait_for(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))
    os.close(leash)
    os.close(ours)


def test_how_a_run_was_taken_up_is_no_part_of_what_it_is():
    assert of_the_run(["model=wgan", "resume='/runs/1'", "sweep.jobs=2", "+hydra.verbose=true"]) == ["model=wgan"]


def test_what_a_sweeper_has_composed_is_not_composed_again() -> None:
    made: list[list[str]] = []

    def compose(master: DictConfig, overrides: list[str]) -> DictConfig:
        made.append(overrides)
        return OmegaConf.create({"overrides": overrides})

    master, composed = OmegaConf.create({}), []
    load = launcher.composed_once(compose)
    for overrides in (["seed=0"], ["seed=1"], ["seed=0"], ["seed=1"], ["seed=0"]):
        composed.append(load(master, overrides))
        given = list(composed[-1].overrides)
        composed[-1].overrides = None  # what a sweeper does to its config is nothing to the launcher
        composed[-1] = given
    assert composed == [["seed=0"], ["seed=1"]] * 2 + [["seed=0"]]
    assert made == [["seed=0"], ["seed=1"], ["seed=0"]]
