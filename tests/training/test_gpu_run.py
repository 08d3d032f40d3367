"""train.py on a GPU: killed at some step and resumed, it ends as one that never was, with its steps as CUDA graphs."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from project import ROOT

from gantry.runs.checkpoint_files import FOLDER, newest
from gantry.runs.folder import PROGRESS_FILE, read_metrics

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
ACCELERATOR = "gpu"
SAID = "steps are replayed as CUDA graphs"
STEPS, EVERY = 2000, 50
VARYING = ("images_per_second", "training_seconds", "evaluation_seconds", "peak_memory_mib", "time")


@pytest.fixture(autouse=True)
def whole_installation():
    """Training needs more than a step does."""
    for name in ("torchvision", "sklearn", "PIL", "safetensors"):
        pytest.importorskip(name)


def start(folder, cache, *overrides):
    places = [f"paths.root={folder.parent}", f"paths.cache={cache}", f"trainer.accelerator={ACCELERATOR}"]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides, *places],
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    text = process.communicate(timeout=400)[0]
    assert process.returncode == 0, text
    return text


def weights(folder):
    return torch.load(newest(folder).path, weights_only=True)["state_dict"]


def record(folder):
    return [{name: value for name, value in line.items() if name not in VARYING} for line in read_metrics(folder)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_killed_run_resumes_with_graphs_to_the_bit(precision, tmp_path, cache):
    often = [f"steps={STEPS}", f"checkpoint.every={EVERY}", f"metrics.every={STEPS}", "log_every=10"]
    overrides = ["experiment=smoke", "model=dcgan", "tracking=none", f"trainer.precision={precision}", *often]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    said = finish(start(whole, cache, *overrides, f"hydra.run.dir={whole}"))
    assert SAID in said

    process = start(killed, cache, *overrides, f"hydra.run.dir={killed}")
    deadline = time.monotonic() + 300
    while not list((killed / FOLDER).glob("*.ckpt")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (killed / PROGRESS_FILE).exists()
    assert SAID in finish(start(killed, cache, f"resume={killed}"))

    mine, theirs = weights(killed), weights(whole)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(mine[name], value), name
    assert record(killed) == record(whole)
