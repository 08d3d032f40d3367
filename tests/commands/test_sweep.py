"""`python train.py -m`: every combination its own process and run, under one parent."""

import json
import signal
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient
from project import ROOT


def sweep(tmp_path, cache, *overrides):
    command = [sys.executable, str(ROOT / "train.py"), "-m", "experiment=smoke", f"paths.cache={cache}", *overrides]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)


def runs(tmp_path):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("gantry").experiment_id])
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(found) - 1
    return parent, children


@pytest.mark.parametrize("variants", [["wgan"], pytest.param(["wgan", "dcgan"], marks=pytest.mark.slow)])
def test_a_failing_job_stops_neither_the_others_nor_goes_unseen(tmp_path, cache, variants):
    tmp_path = tmp_path / "jürgen's (a,b) #1"  # every character has a meaning in Hydra's grammar
    tmp_path.mkdir()
    models = f"model={','.join(variants)}"
    done = sweep(tmp_path, cache, models, "max_images=15,512")  # 15 images do not fill a batch of 16
    assert done.returncode == 1, done.stdout + done.stderr
    summaries = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("outputs/*/*_sweep/*/summary.json"))]
    assert [(summary["variant"], summary["steps"]) for summary in summaries] == [(variant, 4) for variant in variants]
    assert done.stdout.count("batch_size=16 is larger than the data set") >= 2  # when it happened, and at the end
    assert done.stderr == ""
    table = done.stdout[done.stdout.index("job  run") :]
    rows = [line.split() for line in table.splitlines()[1 : 1 + 2 * len(variants)]]
    assert [next(word for word in row if word.isupper()) for row in rows] == ["FAILED", "FINISHED"] * len(variants)
    parent, children = runs(tmp_path)
    assert parent.info.status == "FAILED"
    ended = [(run.data.tags["overrides"].split("model=")[1], run.info.status) for run in children]
    assert sorted(ended) == [
        (f"{model} max_images={images}", status)
        for model in sorted(variants)
        for images, status in (("15", "FAILED"), ("512", "FINISHED"))
    ]
    assert all("15 images" in run.data.tags["gantry.reason"] for run in children if run.info.status == "FAILED")


def test_a_sweep_with_an_impossible_job_starts_none(tmp_path, cache):
    done = sweep(tmp_path, cache, "model=dcgan", "steps=4,-1")
    assert done.returncode == 2
    assert "steps=-1" in done.stderr
    assert "at least 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("mlruns/*"))
    assert not list(tmp_path.glob("outputs/*/*_sweep/*/metrics.jsonl"))


@pytest.mark.slow
def test_a_stopped_sweep_stops_its_job_and_closes_both_runs(tmp_path, cache):
    command = [sys.executable, str(ROOT / "train.py"), "-m", "experiment=smoke", f"paths.cache={cache}"]
    command += ["model=dcgan,wgan", "steps=1000000"]
    started = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 180
    while not any(path.read_text().count("\n") > 3 for path in tmp_path.glob("outputs/*/*_sweep/0_*/metrics.jsonl")):
        assert started.poll() is None, started.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.2)
    started.send_signal(signal.SIGTERM)
    text = started.communicate(timeout=90)[0]
    assert started.returncode == 143, text
    assert "Traceback" not in text
    parent, children = runs(tmp_path)
    assert parent.info.status == "KILLED"
    assert [run.info.status for run in children] == ["KILLED"]
    assert not list(tmp_path.glob("outputs/*/*_sweep/1_*/metrics.jsonl"))
