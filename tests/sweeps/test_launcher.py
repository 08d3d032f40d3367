"""A sweep's processes: whatever becomes of a job, the others run, the status is true and nothing is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run
from processes import alive, at_work_in, wait_for
from tiny_train import EXIT, FILL, FULL, HANG, KILL, RAISE

from gantry.runs import checkpoint_files

TINY = Path(__file__).with_name("tiny_train.py")


class Tiny:
    """Runs sweeps of tiny_train.py in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def start(self, *overrides, **environment):
        command = [sys.executable, str(TINY), *overrides]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *overrides, **environment):
        done = run(TINY, "-m", "tracking=none", *overrides, cwd=self.folder, env=os.environ | environment)
        return done.returncode, done.stdout + done.stderr

    @property
    def sweep(self):
        (found,) = self.folder.glob("outputs/*/*_sweep")
        return found

    def jobs(self):
        return json.loads((self.sweep / "sweep.json").read_text())["jobs"]

    def statuses(self):
        """(status, reason) of each job by its seed."""
        found = {}
        for job in self.jobs():
            (seed,) = [int(text.split("=")[1]) for text in job["overrides"] if text.startswith("seed=")]
            status = self.sweep / job["folder"] / "status.json"
            record = json.loads(status.read_text()) if status.exists() else {"status": None, "reason": None}
            found[seed] = (record["status"], record["reason"])
        return found

    def ran_on(self):
        """For each job by its seed: when it began and ended, and its GPU on record."""
        found = {}
        for job, seed in zip(self.jobs(), self.statuses(), strict=True):
            times = [(self.sweep / job["folder"] / name).stat().st_mtime for name in ("pids", "status.json")]
            found[seed] = (*times, job["device"])
        return found

    def environment(self, number):
        """What a job that has finished was given: threads, GPUs, how many jobs share them."""
        (file,) = self.sweep.glob(f"{number}_*/summary.json")
        return json.loads(file.read_text())["environment"]

    def steps(self, number):
        (file,) = self.sweep.glob(f"{number}_*/metrics.jsonl")
        return [json.loads(line)["step"] for line in file.read_text().splitlines()]

    def under_way(self, least, most):
        """The jobs that have done so many steps and not ended."""
        open_ = [
            file
            for file in self.folder.glob("outputs/*/*/*/progress.json")
            if not file.with_name("status.json").exists()
        ]
        return [file for file in open_ if least <= json.loads(file.read_text())["step"] <= most]

    def pids(self):
        return [int(pid) for file in self.folder.rglob("pids") for pid in file.read_text().split()]

    def left(self):
        """The processes of the sweep that still run: those at work in its folder, a job that has just begun too."""
        return [pid for pid in at_work_in(self.folder) if alive(pid)]


@pytest.fixture
def tiny(tmp_path):
    return Tiny(tmp_path)


TWELVE = [0, RAISE, 1, KILL, 2, EXIT, 3, HANG, 4, FILL, 5, 6]


@pytest.mark.parametrize("seeds", [[KILL, HANG, 0], pytest.param(TWELVE, marks=pytest.mark.slow)])
def test_saboteurs_among_the_jobs(tiny, seeds):
    code, text = tiny.run(f"seed={','.join(map(str, seeds))}", "steps=8", "sweep.jobs=4", "sweep.timeout=8")
    assert code == 1, text
    statuses = tiny.statuses()
    assert list(statuses) == seeds
    ends = {
        RAISE: ("FAILED", "ValueError: on purpose"),
        KILL: ("KILLED", "SIGKILL"),
        EXIT: ("FAILED", "exit code 3"),
        HANG: ("KILLED", "no progress for 8 s (sweep.timeout)"),
        FILL: ("FAILED", "MemoryError"),
    }
    for seed, (status, reason) in statuses.items():
        expected, said = ends.get(seed, ("FINISHED", ""))
        assert status == expected
        assert said in (reason or "")
    table = text[text.index("job  run") :]
    for number, seed in enumerate(seeds):
        assert re.search(rf"^{number} +seed={seed} +{statuses[seed][0]}\b", table, re.M), table
    if RAISE in seeds:
        assert statuses[RAISE][1] == "ValueError: on purpose"
        assert "ValueError: on purpose" in text[: text.index("job  run")]  # the log's tail, when it happened
    assert not tiny.left()


def test_max_failures_stops_early_and_says_what_was_not_started(tiny):
    code, text = tiny.run(f"seed={RAISE},{FILL},0,1", "steps=4", "sweep.max_failures=2")
    assert code == 1
    assert [status for status, _ in tiny.statuses().values()] == ["FAILED", "FAILED", None, None]
    assert "2 jobs have failed (sweep.max_failures): 2 are not started" in text
    assert text.count("not started") >= 3


def test_jobs_share_the_cores_and_run_at_most_so_many_at_once(tiny, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code, text = tiny.run("seed=0,1,2,3", "steps=20", "sweep.jobs=2")
    assert code == 0, text
    spans = []
    for job in tiny.jobs():
        folder = tiny.sweep / job["folder"]
        spans.append(((folder / "pids").stat().st_mtime, (folder / "status.json").stat().st_mtime))
        cores = len(os.sched_getaffinity(0))
        assert tiny.environment(job["number"]) == [str(max(1, cores // 2)), "", None]
    most = max(sum(start <= moment <= end for start, end in spans) for moment, _ in spans)
    assert most == 2


UUIDS = ["GPU-8a3f0c11-2222-3333-4444-555555555555", "MIG-77aa9b12-2222-3333-4444-555555555555"]


def test_several_jobs_share_a_gpu_and_what_becomes_of_one_frees_its_place(tiny):
    seeds = [0, KILL, FULL, 1, 2, RAISE, 3, 4]
    code, text = tiny.run(
        f"seed={','.join(map(str, seeds))}",
        "steps=40",
        "sweep.jobs_per_device=2",
        **{"CUDA_VISIBLE_DEVICES": ",".join(UUIDS), "TINY_PAUSE": "0.05"},
    )
    assert code == 1, text
    statuses = tiny.statuses()
    assert [statuses[seed][0] for seed in range(5)] == ["FINISHED"] * 5
    assert statuses[KILL][0] == "KILLED"
    assert statuses[RAISE] == ("FAILED", "ValueError: on purpose")
    status, reason = statuses[FULL]
    assert status == "FAILED"
    assert "this job's part of the GPU's memory (sweep.jobs_per_device=2) does not suffice" in reason
    assert "sweep.jobs_per_device=1 gives each job" in reason
    assert "CUDA out of memory" in reason
    ran = tiny.ran_on()
    for uuid in UUIDS:
        spans = [(began, ended) for began, ended, at in ran.values() if at == uuid]
        assert len(spans) >= 2
        assert max(sum(began <= moment <= ended for began, ended in spans) for moment, _ in spans) <= 2
    lines = [line for line in text.splitlines() if re.match(r"\[\d\] seed=\d+: (started on|[A-Z]+ after) ", line)]
    assert ["started" in line for line in lines[:5]] == [True] * 4 + [False]  # four places, then the first end
    for number, seed in enumerate(seeds):
        at = ran[seed][2]
        assert f"started on GPU {at[:12]}, log in" in text
        assert re.search(rf"^{number} +seed={seed} +{statuses[seed][0]} +{at[:12]} ", text, re.M), text
        if statuses[seed][0] == "FINISHED":
            assert tiny.environment(number)[1:] == [at, "2"]


@pytest.mark.slow  # what it joins, sharing a GPU and a sweep killed by kill -9, is tested by itself
def test_a_killed_sweep_on_a_shared_gpu_is_taken_up_with_fewer_jobs_on_it(tiny):
    at = {"CUDA_VISIBLE_DEVICES": "3", "TINY_PAUSE": "0.05"}
    started = tiny.start("-m", "tracking=none", "seed=0,1,2", "steps=60", "sweep.jobs_per_device=2", **at)
    wait_for(lambda: len(tiny.under_way(2, 50)) == 2)
    started.kill()
    started.communicate()
    wait_for(lambda: not tiny.left(), 20)
    assert [job["device"] for job in tiny.jobs()] == ["3", "3", None]
    resumed = tiny.start(f"sweep.resume={tiny.sweep}", "sweep.jobs_per_device=1", **at)
    text = resumed.communicate(timeout=60)[0]
    assert resumed.returncode == 0, text
    assert [status for status, _ in tiny.statuses().values()] == ["FINISHED"] * 3
    assert [job["device"] for job in tiny.jobs()] == ["3"] * 3
    for number in range(3):
        assert tiny.steps(number) == list(range(1, 61))
        assert tiny.environment(number)[1:] == ["3", None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["sweep.jobs_per_device=2"], "there is no GPU to share"),
        (["sweep.jobs_per_device=2", "hydra/launcher=basic"], "hydra/launcher=basic does not share GPUs among jobs"),
        (["sweep.jobs_per_device=0"], "sweep.jobs_per_device: must be at least 1, not 0"),
        (["sweep.jobs_per_device=65"], "sweep.jobs_per_device: must be at most 64, not 65"),
    ],
)
def test_gpus_that_cannot_be_shared_are_refused_before_a_job_starts(tiny, options, said):
    code, text = tiny.run("seed=0,1", *options, CUDA_VISIBLE_DEVICES="")
    assert code == 2, text
    assert said in text
    assert not list(tiny.folder.glob("outputs/*/*/sweep.json"))


def test_the_trials_of_a_search_are_jobs_of_the_launcher(tiny):
    pytest.importorskip("optuna")
    rate = "model.optimizer.lr=interval(1e-5,1e-3)"
    code, text = tiny.run("hydra/sweeper=gantry_optuna", "hydra.sweeper.n_trials=2", "seed=0", "steps=4", rate)
    assert code == 0, text
    folders = [tiny.sweep / job["folder"] for job in tiny.jobs()]
    assert [json.loads((folder / "status.json").read_text())["status"] for folder in folders] == ["FINISHED"] * 2
    assert "search: 2 trials, 2 measured" in text


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_stopped_sweep_stops_its_jobs_with_a_checkpoint_and_can_be_taken_up(tiny, number, code):
    started = tiny.start("-m", "tracking=none", "seed=0,1,2", "steps=100000", "sweep.jobs=2")
    wait_for(lambda: len({path.parent for path in tiny.folder.glob("outputs/*/*/*/checkpoints/step_*")}) == 2)
    started.send_signal(number)
    text = started.communicate(timeout=60)[0]
    assert started.returncode == code, text
    assert "Traceback" not in text
    killed = ("KILLED", f"the sweep was stopped by {number.name}")
    assert tiny.statuses() == {0: killed, 1: killed, 2: (None, None)}
    assert "-m sweep.resume=" in text
    assert not tiny.left()


def test_kill_9_leaves_no_orphan_and_no_finished_work_is_repeated(tiny):
    started = tiny.start("-m", "tracking=none", "seed=0,1,2,3", "steps=40", "sweep.jobs=2", TINY_PAUSE="0.02")
    wait_for(lambda: list(tiny.folder.glob("outputs/*/*/*/summary.json")) and tiny.under_way(5, 25))
    started.kill()
    started.communicate()
    wait_for(lambda: not tiny.left(), 20)
    before = tiny.statuses()
    finished = [seed for seed, (status, _) in before.items() if status == "FINISHED"]
    stopped = [seed for seed, (_, reason) in before.items() if reason and "its sweep is gone" in reason]
    assert finished
    assert stopped
    pids = tiny.pids()
    resumed = tiny.start(f"sweep.resume={tiny.sweep}")
    text = resumed.communicate(timeout=60)[0]
    assert resumed.returncode == 0, text
    assert f"{len(finished)} finished and kept" in text
    assert [status for status, _ in tiny.statuses().values()] == ["FINISHED"] * 4
    for number in range(4):
        assert tiny.steps(number) == list(range(1, 41))
    assert len(tiny.pids()) - len(pids) == 4 - len(finished)
    for seed in stopped:
        assert f"[{seed}] seed={seed}: continues at step" in text


@pytest.mark.slow
def test_a_grown_sweep_that_was_stopped_is_taken_up_whole(tiny):
    assert tiny.run("seed=0", "steps=4")[0] == 0
    grown = tiny.start(f"sweep.resume={tiny.sweep}", "seed=0,1,2", "steps=100000")
    wait_for(lambda: tiny.under_way(2, 100000))
    grown.terminate()
    assert grown.wait(60) == 143
    records = [job["overrides"] for job in tiny.jobs()]
    assert [("seed=0" in job, "steps=4" in job) for job in records] == [
        (True, True),
        (True, False),
        *[(False, False)] * 2,
    ]
    for job in tiny.jobs():
        folder = tiny.sweep / job["folder"]
        if checkpoint_files.found(folder) and not (folder / "summary.json").exists():
            checkpoint_files.write(folder, 99990, b"99990")  # nearly there
    resumed = tiny.start(f"sweep.resume={tiny.sweep}", "sweep.max_failures=1", TINY_PAUSE="0")
    wait_for(lambda: len(list(tiny.folder.glob("outputs/*/*/*/pids"))) == 3)
    resumed.terminate()
    text = resumed.communicate(timeout=60)[0]
    assert "1 finished and kept" in text
    assert "[1]" in text
    assert not tiny.left()


def test_a_job_that_still_winds_down_is_waited_for(tiny):
    started = tiny.start("-m", "tracking=none", "seed=0", "steps=100000")
    wait_for(lambda: tiny.under_way(2, 100000))
    (pid,) = tiny.pids()
    os.kill(pid, signal.SIGSTOP)
    started.kill()
    started.communicate()
    resumed = tiny.start(f"sweep.resume={tiny.sweep}")
    assert "1 to go on" in resumed.stdout.readline()
    assert tiny.pids() == [pid]
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: len(tiny.pids()) == 2)
    wait_for(lambda: not alive(pid) and tiny.under_way(2, 100000))
    resumed.terminate()
    text = resumed.communicate(timeout=60)[0]
    assert "[0] seed=0 steps=100000: continues at step" in text.replace("tracking=none ", "")
    assert not list(tiny.sweep.glob("*/earlier"))
    steps = tiny.steps(0)
    assert steps == list(range(1, len(steps) + 1))


def test_losing_the_terminal_stops_no_sweep(tiny):
    started = tiny.start("-m", "tracking=none", "seed=0,1", "steps=4")
    started.stdout.close()
    started.wait(60)
    assert [status for status, _ in tiny.statuses().values()] == ["FINISHED"] * 2


@pytest.mark.slow
def test_what_is_ignored_stays_ignored(tiny):
    """As `nohup` asks."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        started = tiny.start("-m", "tracking=none", "seed=0", "steps=200")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(lambda: tiny.under_way(2, 150))
    started.send_signal(signal.SIGHUP)
    text = started.communicate(timeout=60)[0]
    assert started.returncode == 0, text


def test_a_failed_job_starts_again_and_a_sweep_can_grow(tiny):
    code, _ = tiny.run(f"seed=0,{RAISE}", "steps=4")
    assert code == 1
    code, text = tiny.run(f"seed=0,{RAISE},1", "steps=4", f"sweep.resume={tiny.sweep}", TINY_MENDED="1")
    assert code == 0, text
    assert [status for status, _ in tiny.statuses().values()] == ["FINISHED"] * 3
    assert [job["number"] for job in tiny.jobs()] == [0, 1, 2]
    assert f"[1] seed={RAISE}: starts again" in text
    (earlier,) = tiny.sweep.glob("1_*/earlier/1/status.json")
    assert json.loads(earlier.read_text())["status"] == "FAILED"
    assert tiny.steps(1) == [1, 2, 3, 4]
    assert len((tiny.sweep / tiny.jobs()[0]["folder"] / "pids").read_text().split()) == 1


def test_taking_up_what_is_not_there_or_still_runs_or_has_changed_is_refused(tiny):
    code, text = tiny.run("seed=0", "sweep.resume=outputs/nowhere")
    assert (code, "no such sweep" in text) == (2, True)
    started = tiny.start("-m", "tracking=none", "seed=0,1", "steps=100000")
    wait_for(lambda: list(tiny.folder.glob("outputs/*/*/*/checkpoints/step_*")))
    code, text = tiny.run("seed=0,1", "steps=100000", f"sweep.resume={tiny.sweep}")
    assert (code, "is still running" in text) == (2, True), text
    started.terminate()
    started.communicate(timeout=60)
    job = tiny.sweep / tiny.jobs()[0]["folder"]
    params = json.loads((job / "params.json").read_text())
    (job / "params.json").write_text(json.dumps(params | {"model.z_dim": "7"}))
    code, text = tiny.run("seed=0,1", "steps=100000", f"sweep.resume={tiny.sweep}")
    assert code == 2, text
    assert "model.z_dim: was 7, is 100" in text
    assert "Traceback" not in text
    assert not tiny.left()


@pytest.mark.parametrize("launcher", ["gantry", "basic"])
def test_a_folder_that_holds_a_sweep_is_not_written_over(tiny, launcher):
    assert tiny.run("seed=0", "steps=4")[0] == 0
    before = (tiny.sweep / "sweep.json").read_text()
    code, text = tiny.run("seed=1", "steps=4", f"hydra.sweep.dir={tiny.sweep}", f"hydra/launcher={launcher}")
    assert code == 2, text
    assert "holds a sweep; take it up with sweep.resume=" in text
    assert (tiny.sweep / "sweep.json").read_text() == before


def test_the_same_job_twice_is_refused(tiny):
    code, text = tiny.run("seed=0,0", "steps=4")
    assert code == 2
    assert "jobs 0 and 1 are the same: " in text


def test_other_launchers_jobs_are_recorded_too(tiny):
    code, text = tiny.run(f"seed=0,{RAISE},1", "steps=4", "hydra/launcher=basic")
    assert code == 1, text
    assert {seed: status for seed, (status, _) in tiny.statuses().items()} == {
        0: "FINISHED",
        RAISE: "FAILED",
        1: "FINISHED",
    }
    code, text = tiny.run(
        f"seed=0,{RAISE},1", "steps=4", "hydra/launcher=basic", f"sweep.resume={tiny.sweep}", TINY_MENDED="1"
    )
    assert code == 0, text
    assert [status for status, _ in tiny.statuses().values()] == ["FINISHED"] * 3
