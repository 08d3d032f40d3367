"""Sweeps of real training runs against a real store, and what is left when they are killed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from project import ROOT

from gantry.runs.tracking.store import prepare_store

pytestmark = pytest.mark.slow

ENDS = {1: "FAILED", 3: "KILLED", 5: "FAILED", 7: "KILLED", 9: "FAILED"}  # of the harms in saboteurs.py


def start(folder, cache, *overrides):
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "-m",
        "experiment=smoke",
        "model=vanilla",
        f"paths.cache={cache}",
    ]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *overrides],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def runs(folder):
    client, experiment = prepare_store(folder / "mlruns", "gantry")
    found = [run for run in client.search_runs([experiment]) if run.data.tags.get("gantry.superseded") != "true"]
    (parent,) = [run for run in found if run.data.tags.get("gantry.kind") == "sweep"]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(found) - 1
    return client, parent, children


def processes(folder):
    """Those that have the folder on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in path.read_bytes().decode(errors="replace").replace("\0", " "):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def steps(client: MlflowClient, run, key="loss/generator"):
    return [point.step for point in client.get_metric_history(run.info.run_id, key)]


SABOTAGE = [
    "steps=20",
    "model.loss._target_=saboteurs.loss",
    f"+model.loss.harm={','.join(map(str, range(12)))}",
    "sweep.jobs=2",
    "sweep.timeout=45",
]


def check_saboteurs(folder, text):
    """Seven good results, five true failures, the parent closed, no process left."""
    client, parent, children = runs(folder)
    assert parent.info.status == "FAILED"
    assert len(children) == 12
    found = {}
    for run in children:
        found[int(run.data.params["model.loss.harm"])] = run.info.status
        if run.info.status == "FINISHED":
            assert steps(client, run) == list(range(2, 21, 2))
            assert "gantry.reason" not in run.data.tags
        else:
            assert run.data.tags["gantry.reason"]
            assert "log.txt" in [file.path for file in client.list_artifacts(run.info.run_id)]
    assert found == {harm: ENDS.get(harm, "FINISHED") for harm in range(12)}
    table = text[text.index("job  run") :]
    for harm, status in found.items():
        assert re.search(rf"^{harm} +\+model\.loss\.harm={harm} +{status}\b", table, re.M), table
    assert "comparison/report.html" in [file.path for file in client.list_artifacts(parent.info.run_id, "comparison")]
    assert not processes(folder)


def finished_jobs(folder):
    """When each finished job of the sweep said so."""
    (sweep,) = folder.glob("outputs/*/*_sweep")
    files = list(sweep.glob("*/status.json"))
    return sweep, {f: f.stat().st_mtime_ns for f in files if json.loads(f.read_text())["status"] == "FINISHED"}


def kill(sweep, folder, after):
    """SIGKILL to the sweep alone, some seconds after its first job trains; its jobs follow."""
    while not list(folder.glob("outputs/*/*_sweep/*/progress.json")):
        assert sweep.poll() is None, sweep.communicate()[0]
        time.sleep(0.1)
    time.sleep(after)
    sweep.send_signal(signal.SIGKILL)
    sweep.communicate()
    deadline = time.time() + 90
    while processes(folder):
        assert time.time() < deadline
        time.sleep(0.5)


def test_twelve_jobs_of_which_five_are_saboteurs(tmp_path, cache):
    started = start(tmp_path, cache, *SABOTAGE)
    text = started.communicate(timeout=900)[0]
    assert started.returncode == 1, text
    check_saboteurs(tmp_path, text)


def test_the_same_after_the_sweep_itself_is_killed(tmp_path, cache):
    started = start(tmp_path, cache, *SABOTAGE)
    kill(started, tmp_path, random.Random(7).uniform(5, 60))
    sweep, finished = finished_jobs(tmp_path)
    resumed = start(tmp_path, cache, f"sweep.resume={sweep}")
    text = resumed.communicate(timeout=900)[0]
    assert resumed.returncode == 1, text
    check_saboteurs(tmp_path, text)
    assert all(file.stat().st_mtime_ns == written for file, written in finished.items())


@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_killed_at_a_random_moment_is_taken_up_without_repeating_finished_work(tmp_path, cache, seed):
    started = start(tmp_path, cache, "steps=60", "metrics.every=10", "seed=0,1,2,3,4,5", "sweep.jobs=2")
    kill(started, tmp_path, random.Random(seed).uniform(0, 30))
    sweep, finished = finished_jobs(tmp_path)
    resumed = start(tmp_path, cache, f"sweep.resume={sweep}")
    text = resumed.communicate(timeout=600)[0]
    assert resumed.returncode == 0, text
    assert all(file.stat().st_mtime_ns == written for file, written in finished.items())
    client, parent, children = runs(tmp_path)
    assert (parent.info.status, len(children)) == ("FINISHED", 6)
    for run in children:
        assert run.info.status == "FINISHED"
        assert steps(client, run) == list(range(2, 61, 2))
        assert steps(client, run, "fid_classifier") == list(range(0, 61, 10))
    assert not processes(tmp_path)


def test_eight_jobs_at_once_on_a_store_from_nothing(tmp_path, cache):
    started = start(tmp_path, cache, "steps=10", "seed=0,1,2,3,4,5,6,7", "sweep.jobs=8")
    text = started.communicate(timeout=900)[0]
    assert started.returncode == 0, text
    client, parent, children = runs(tmp_path)
    assert (parent.info.status, len(children)) == ("FINISHED", 8)
    for run in children:
        folder = Path(run.data.tags["gantry.folder"])
        assert not (folder / "undelivered.jsonl").exists()
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for key in {key for line in lines for key in line} - {"step", "time"}:
            assert steps(client, run, key) == [line["step"] for line in lines if key in line], key
