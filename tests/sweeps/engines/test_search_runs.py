"""Searches by `python train.py -m`, as processes: they find the best, survive kills and refuse what cannot work."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from project import ROOT
from search_spaces import RATE

from gantry.commands.train import main
from gantry.runs.tracking.store import prepare_store

HERE = Path(__file__).parent


def run(folder, *overrides, script=ROOT / "train.py", **environment):
    pytest.importorskip("optuna")
    command = [sys.executable, str(script), "-m", "tracking=none", "hydra/sweeper=gantry_optuna", *overrides]
    paths = os.pathsep.join([str(HERE / "plugins"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def launched(folder):
    return [json.loads(line) for line in (folder / "launched.jsonl").read_text().splitlines()]


def the_sweep(folder):
    (found,) = folder.glob("outputs/*/*_sweep")
    return found


# The command line


def test_a_search_finds_the_best_and_survives_failed_and_diverged_trials(tmp_path):
    done = run(
        tmp_path,
        "hydra/launcher=closed_form",
        "hydra.sweeper.n_trials=15",
        "hydra.sweeper.sampler=tpe",
        "sweep.jobs=3",
        "model.optimizer.lr=tag(log,interval(1e-6,1e2))",
        "model.n_critic=range(1,6)",
        "model=dcgan,lsgan",
        "steps=7",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    batches = launched(tmp_path)
    assert [first for first, _ in batches] == [3 * i for i in range(5)]
    jobs = [dict(text.split("=") for text in job) for _, batch in batches for job in batch]
    assert len(jobs) == 15
    assert all(job["steps"] == "7" and 1 <= int(job["model.n_critic"]) <= 5 for job in jobs)
    failed = sum(job["model"] == "lsgan" for job in jobs)
    diverged = sum(job["model"] == "dcgan" and float(job["model.optimizer.lr"]) > 0.01 for job in jobs)
    assert failed
    assert diverged
    assert f"search: 15 trials, {15 - failed - diverged} measured, {diverged} diverged, {failed} failed" in done.stdout
    results = yaml.safe_load((the_sweep(tmp_path) / "optimization_results.yaml").read_text())
    assert results["best_params"]["model"] == "dcgan"
    rate, critic = results["best_params"]["model.optimizer.lr"], results["best_params"]["model.n_critic"]
    assert results["best_value"] == pytest.approx((math.log10(rate) + 3.7) ** 2 + abs(critic - 3))


def test_max_failures_ends_a_search(tmp_path):
    done = run(
        tmp_path,
        "hydra/launcher=closed_form",
        "hydra.sweeper.sampler=random",
        "sweep.max_failures=2",
        "model=lsgan",
        RATE,
    )
    assert len(launched(tmp_path)) == 2, done.stdout + done.stderr


def test_a_search_killed_by_sigkill_goes_on_where_it_was(tmp_path):
    options = ("hydra/launcher=closed_form", "hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=6", "sweep.jobs=2")
    died = run(tmp_path, *options, RATE, KILLED_IN_BATCH="2")
    assert died.returncode == -signal.SIGKILL
    again = run(tmp_path, RATE, f"hydra.sweep.dir={the_sweep(tmp_path)}")
    assert again.returncode == 2
    assert "sweep.resume=" in again.stderr
    done = run(tmp_path, *options, RATE, f"sweep.resume={the_sweep(tmp_path)}")
    assert done.returncode == 0, done.stdout + done.stderr
    batches = [(first, [job[0] for job in batch]) for first, batch in launched(tmp_path)]
    assert [first for first, _ in batches] == [0, 2, 2, 4]
    cut_off, repeated = [sorted(text for text in batch if "lr" in text) for _, batch in batches[1:3]]
    assert cut_off == repeated
    assert "search: 6 trials, 6 measured" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.optimizer.lr=interval(1e-3,1e-5)"], "from a smaller to a larger number"),
        (["hydra.sweeper.n_trials=0", RATE], "hydra.sweeper.n_trials: must be at least 1, not 0"),
        (["hydra.sweeper.sampler=cma", RATE], "must be one of tpe, gp, random, not 'cma'"),
        (["model.optimiser.lr=interval(1e-5,1e-3)"], "model.optimiser"),
        (["steps=range(-3,0)"], "steps: must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(typed, tmp_path, monkeypatch, overrides, says):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    engine = ("hydra/sweeper=gantry_optuna", "hydra.sweeper.sampler=random")
    code, out, errors = typed(main, "-m", "tracking=none", *engine, *overrides)
    assert code == 2, out + errors
    assert says in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("outputs/*/*_sweep/[0-9]*"))


@pytest.mark.slow
def test_a_real_search_is_one_sweep_and_goes_on_after_a_kill(tmp_path, cache):
    options = ["hydra.sweeper.n_trials=4", "hydra.sweeper.sampler=random", "sweep.jobs=2", "experiment=smoke"]
    options += [f"paths.cache={cache}", "steps=40", "tracking=mlflow", "model=dcgan,vanilla", RATE]
    pytest.importorskip("optuna")
    command = [sys.executable, str(ROOT / "train.py"), "-m", "hydra/sweeper=gantry_optuna", *options]
    started = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 200
    while not list(tmp_path.glob("outputs/*/*_sweep/[23]_*/metrics.jsonl")):
        assert started.poll() is None, started.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.2)
    started.kill()
    started.communicate()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/*/*_sweep/[01]_*/summary.json")}
    assert len(finished) == 2
    while not all(path.with_name("status.json").exists() for path in tmp_path.glob("outputs/*/*/*/metrics.jsonl")):
        assert time.time() < deadline  # the jobs notice that their sweep is gone
        time.sleep(0.2)
    command = [sys.executable, str(ROOT / "train.py"), f"sweep.resume={the_sweep(tmp_path)}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert "search: 4 trials, 4 measured" in done.stdout
    client, experiment = prepare_store(tmp_path / "mlruns", "gantry")
    found = [run for run in client.search_runs([experiment]) if run.data.tags.get("gantry.superseded") != "true"]
    assert ["mlflow.parentRunId" in run.data.tags for run in found].count(True) == 4
    assert len(found) == 5
    assert {run.info.status for run in found} == {"FINISHED"}
    best = yaml.safe_load((the_sweep(tmp_path) / "optimization_results.yaml").read_text())["best_value"]
    summaries = [json.loads(path.read_text()) for path in the_sweep(tmp_path).glob("*/summary.json")]
    assert best == min(summary["best"]["fid_classifier"] for summary in summaries)
