"""Real runs of train.py for faults to happen to."""

import json
import os
import subprocess
import sys
import time

import torch
from mlflow import MlflowClient
from project import ROOT

from gantry.runs import checkpoint_files


class Runs:
    """Starts train.py in a folder, on one thread."""

    def __init__(self, folder, cache):
        self.folder, self.cache = folder, cache

    def start(self, *overrides, program=ROOT / "train.py", before=(), **environment):
        paths = [f"paths.root={self.folder}", f"paths.cache={self.cache}"]
        return subprocess.Popen(
            [*before, sys.executable, str(program), *overrides, *paths],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, *overrides):
        process = self.start(*overrides)
        text = process.communicate(timeout=300)[0]
        assert process.returncode == 0, text
        return text

    def client(self):
        return MlflowClient(f"sqlite:///{self.folder}/mlruns/mlflow.db")

    def in_mlflow(self, folder):
        """MLflow's only run of the run in `folder`."""
        client = self.client()
        experiment = client.get_experiment_by_name("gantry").experiment_id
        (run,) = [run for run in client.search_runs([experiment]) if run.data.tags["gantry.folder"] == str(folder)]
        return run


def progress(folder):
    try:
        text = (folder / "progress.json").read_text()
        return json.loads(text)["step"], (folder / "progress.json").stat().st_mtime
    except (OSError, ValueError):
        return 0, 0.0


def wait_until(done, process, seconds=180):
    """Wait until `done()` is true, while the process lives."""
    deadline = time.time() + seconds
    while not done():
        assert process.poll() is None, process.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.05)


def assert_same_weights(one, other):
    """The last checkpoints of two runs are of the same networks, bit for bit."""
    mine, theirs = (
        torch.load(checkpoint_files.newest(run).path, weights_only=True)["state_dict"] for run in (one, other)
    )
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
