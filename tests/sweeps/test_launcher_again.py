"""Sweeps that were stopped, killed or failed are taken up, and nothing finished is repeated."""

import json
import os
import signal

import pytest
from processes import alive, wait_for
from tiny_train import RAISE

from gantry.runs import checkpoint_files


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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
