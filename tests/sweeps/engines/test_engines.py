"""Sweeps run by other launchers than ours: one parent run, true statuses, nothing lost to another job's end."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import ROOT

from gantry.runs.tracking.store import prepare_store

pytestmark = pytest.mark.slow

SABOTEURS = Path(__file__).parents[1]
NEEDS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "ray": "ray",
}
FINE, RAISES, KILLED, EXITS = 0, 1, 3, 5  # the harms of saboteurs.py
ENDS = {FINE: "FINISHED", RAISES: "FAILED", KILLED: "KILLED", EXITS: "FAILED", 2: "FINISHED"}


@pytest.fixture(params=NEEDS)
def launcher(request):
    pytest.importorskip(NEEDS[request.param])
    return request.param


def start(folder, *overrides):
    paths = os.pathsep.join([str(SABOTEURS), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder, *overrides):
    started = start(folder, *overrides)
    text = started.communicate(timeout=400)[0]
    return started.returncode, text


def smoke(cache, launcher):
    return ["-m", f"hydra/launcher={launcher}", "experiment=smoke", "model=vanilla", f"paths.cache={cache}"]


def runs(folder):
    client, experiment = prepare_store(folder / "mlruns", "gantry")
    found = [run for run in client.search_runs([experiment]) if run.data.tags.get("gantry.superseded") != "true"]
    (parent,) = [run for run in found if run.data.tags.get("gantry.kind") == "sweep"]
    children = [run for run in found if run is not parent]
    assert {run.data.tags.get("mlflow.parentRunId") for run in children} == {parent.info.run_id}
    return parent, children


def record(folder):
    (file,) = folder.glob("outputs/*/*_sweep/sweep.json")
    return file.parent, json.loads(file.read_text())


def test_a_job_that_raises_is_killed_or_exits_leaves_the_others_alone(tmp_path, cache, launcher):
    harms = [FINE, RAISES, KILLED, EXITS, 2]
    sabotage = ["model.loss._target_=saboteurs.loss", f"+model.loss.harm={','.join(map(str, harms))}"]
    code, text = run(tmp_path, *smoke(cache, launcher), "steps=10", *sabotage)
    assert code == 1, text
    parent, children = runs(tmp_path)
    assert parent.info.status == "FAILED"
    assert {int(run.data.params["model.loss.harm"]): run.info.status for run in children} == ENDS
    for run_ in children:
        assert ("gantry.reason" in run_.data.tags) == (run_.info.status != "FINISHED")
    sweep, written = record(tmp_path)
    assert [job["number"] for job in written["jobs"]] == list(range(5))
    for job, harm in zip(written["jobs"], harms, strict=True):
        status = json.loads((sweep / job["folder"] / "status.json").read_text())
        assert status["status"] == ENDS[harm]
        assert (sweep / job["folder"] / "summary.json").exists() == (status["status"] == "FINISHED")
    assert "on purpose" in text
    assert "SIGKILL" in text
    assert "exit code 3" in text


def test_finished_jobs_are_kept_and_the_others_begin_again(tmp_path, cache, launcher):
    sabotage = ["model.loss._target_=saboteurs.loss", f"+model.loss.harm={FINE},{KILLED}"]
    code, text = run(tmp_path, *smoke(cache, launcher), *sabotage, "steps=10")
    assert code == 1, text
    sweep, before = record(tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in sweep.glob("*/summary.json")}
    assert len(kept) == 1
    code, text = run(tmp_path, f"sweep.resume={sweep}")
    assert code == 1, text  # killed again, and no other
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    parent, children = runs(tmp_path)
    assert parent.info.run_id == before["parent_run"]
    assert sorted(run.info.status for run in children) == ["FINISHED", "KILLED"]


def test_a_good_sweep_exits_with_zero(tmp_path, cache, launcher):
    code, text = run(tmp_path, *smoke(cache, launcher), "seed=0,1")
    assert code == 0, text
    parent, children = runs(tmp_path)
    assert parent.info.status == "FINISHED"
    assert sorted((run.data.tags["seed"], run.info.status) for run in children) == [
        ("0", "FINISHED"),
        ("1", "FINISHED"),
    ]
    assert (record(tmp_path)[0] / "comparison" / "report.html").exists()


@pytest.mark.parametrize("launcher", ["joblib", "ray"])
def test_a_stopped_sweep_stops_its_jobs(tmp_path, cache, launcher):
    pytest.importorskip(NEEDS[launcher])
    started = start(tmp_path, *smoke(cache, launcher), "steps=1000000", "seed=0,1")
    deadline = time.time() + 180
    while not list(tmp_path.glob("outputs/*/*_sweep/*/progress.json")):
        assert started.poll() is None, started.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.2)
    started.terminate()
    text = started.communicate(timeout=120)[0]
    assert started.returncode == 143, text
    deadline = time.time() + 90
    while (left := processes(tmp_path)) and time.time() < deadline:
        time.sleep(0.5)
    assert not left
    parent, children = runs(tmp_path)
    assert parent.info.status == "KILLED"
    assert {run.info.status for run in children} == {"KILLED"}
    # joblib kills the whole trees of its workers; Ray lets the jobs write a checkpoint.
    said = {"joblib": "without a word", "ray": "was stopped"}[launcher]
    assert all(said in run.data.tags["gantry.reason"] for run in children)
    if launcher == "ray":
        assert len(list(tmp_path.glob("outputs/*/*_sweep/*/checkpoints"))) == len(children)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["sweep.jobs_per_device=2", "+hydra.launcher.ray.init.num_gpus=2"], 0, ""),
        (["sweep.jobs_per_device=2", "+hydra.launcher.ray.init.num_gpus=0"], 1, "the Ray cluster has no GPU to share"),
    ],
)
def test_ray_puts_several_jobs_on_a_gpu(tmp_path, monkeypatch, options, code, said):
    """The GPUs are numbers that Ray is told; a job that counts stands for one that trains on them."""
    pytest.importorskip("ray")
    command = [sys.executable, str(SABOTEURS / "tiny_train.py"), "-m", "hydra/launcher=ray", "tracking=none"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # with it Ray refuses more GPUs than it names
    environment = os.environ | {"TINY_PAUSE": "0.1"}
    done = subprocess.run(
        [*command, "seed=0,1,2,3", "steps=60", "trainer.accelerator=gpu", *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    given = [json.loads(path.read_text())["environment"] for path in tmp_path.glob("outputs/*/*/*/summary.json")]
    assert len(given) == (4 if code == 0 else 0)
    assert {(gpu, jobs) for _, gpu, jobs in given} <= {("0", "2"), ("1", "2")}


def processes(folder):
    """Those that have the folder on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in path.read_bytes().decode(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
