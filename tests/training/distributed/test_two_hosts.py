"""One run on two machines, each with its own network, name, processes and disk (`hosts`): how it goes, how it ends."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hosts import ended, two_hosts
from PIL import Image
from project import ROOT

import gantry
from gantry.runs import checkpoint_files
from gantry.runs.folder import RUN_FILE
from gantry.runs.tracking.status import close_runs_left

pytestmark = pytest.mark.slow

# Without BatchNorm, and small: in wide dense layers Adam makes a step of what is rounding.
RUN = [ROOT / "train.py", "experiment=smoke", "model=wgan_gp", "model.n_critic=2", "model.generator.norm=layer"]
RUN += ["data.image_size=8", "model.generator.width=8", "model.discriminator.width=8"]
RUN += ["steps=200", "metrics.every=10", "log_every=10", "hydra.run.dir=run"]
BOTH = ["trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2"]
TORCHRUN = "torch.distributed.run"
TROUBLE = "model.loss={_target_: trouble.loss}"
# Silence and leaving (gantry.training.distributed.watch) are 15 s together; torchrun and a busy machine have the rest.
SOON = 60


@pytest.fixture
def hosts(tmp_path):
    with two_hosts(tmp_path) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the same run on one machine alone, never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    command = [sys.executable, *RUN, "tracking=none", f"paths.cache={folder}"]
    subprocess.run(command, cwd=folder, env=os.environ | _environment(folder), check=True, timeout=200)
    return folder / "run"


def _environment(home):
    paths = os.pathsep.join([str(Path(gantry.__file__).parents[1]), str(home)])
    return {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GANTRY_CACHE": str(home / "cache")}


def torchrun(hosts, *more):
    """Start the run on both by torchrun."""
    first = hosts[0].address
    how = ["-m", TORCHRUN, "--nnodes=2", "--nproc-per-node=1", f"--master-addr={first}", "--master-port=29500"]
    return [
        host.start(
            [sys.executable, *how, f"--node-rank={n}", *RUN, *BOTH, *more],
            host.home / "out.txt",
            _environment(host.home),
        )
        for n, host in enumerate(hosts)
    ]


def until_step(host, step, processes):
    """Wait until the run, which is tracked by then, has come so far."""
    deadline = time.monotonic() + 120
    progress, run = host.home / "run/progress.json", host.home / "run" / RUN_FILE
    while not (run.exists() and progress.exists()) or json.loads(progress.read_text())["step"] < step:
        assert time.monotonic() < deadline
        assert [process.poll() for process in processes] == [None, None], said(host)
        time.sleep(0.05)


def said(host):
    return (host.home / "out.txt").read_text(errors="replace")


def runs(host):
    """Status and reason of all runs in the machine's store."""
    with sqlite3.connect(host.home / "mlruns/mlflow.db") as store:
        reason = "select value from tags where tags.run_uuid = runs.run_uuid and key = 'gantry.reason'"
        return store.execute(f"select status, ({reason}) from runs").fetchall()


def state(host):
    return json.loads((host.home / "run/status.json").read_text())


def distance(one, other):
    """The largest difference of a weight tensor in two runs' last checkpoints, relative to its norm."""
    one, other = (
        torch.load(checkpoint_files.newest(run).path, weights_only=True)["state_dict"] for run in (one, other)
    )
    assert one.keys() == other.keys()
    return max(float((other[key] - one[key]).norm() / one[key].norm().clamp(min=1e-12)) for key in one)


def test_two_hosts_train_one_run_as_one_would(hosts, whole):
    first, second = hosts
    assert [code for code, _ in ended(torchrun(hosts), 200)] == [0, 0], said(first) + said(second)
    assert runs(first) == [("FINISHED", None)]
    assert distance(whole, first.home / "run") < 1e-5
    left = {path.name for path in second.home.iterdir()} - {".cache", ".config"}  # of matplotlib
    assert left == {"tmp", "etc-hosts", "out.txt", "cache"}  # what it had, and data sets and classifiers
    assert not list((second.home / "tmp").glob("gantry-*"))
    assert first.processes() == second.processes() == {}


def test_a_host_cut_off_ends_the_run_on_both_sides_which_then_goes_on(hosts, whole):
    first, second = hosts
    processes = torchrun(hosts)
    until_step(first, 12, processes)
    second.cut_off()
    assert all(code != 0 for code, _ in ended(processes, SOON)), said(first) + said(second)
    assert first.processes() == second.processes() == {}
    reason = state(first)["reason"]
    assert state(first)["status"] == "FAILED"
    assert reason.startswith("rank 1 on beta: gone without a word")
    assert runs(first) == [("FAILED", reason)]
    assert "rank 1 on beta failed" in said(first)
    assert "rank 0 on alpha failed" in said(second)

    second.reconnect()
    assert [code for code, _ in ended(torchrun(hosts, "resume=run"), 200)] == [0, 0], said(first) + said(second)
    assert "continues at step" in said(first)
    assert runs(first) == [("FINISHED", None)]
    assert distance(whole, first.home / "run") < 1e-5


def test_when_the_first_host_loses_power_the_other_leaves(hosts):
    first, second = hosts
    processes = torchrun(hosts, "steps=5000")
    until_step(first, 12, processes)
    first.off()
    assert all(code != 0 for code, _ in ended(processes, SOON)), said(second)
    assert second.processes() == {}
    assert "rank 0 on alpha failed" in said(second)
    # Nobody was left to say so: the next start in this store does.
    assert runs(first) == [("RUNNING", None)]
    close_runs_left(first.home / "mlruns", "gantry")
    assert [status for status, _ in runs(first)] == ["KILLED"]


def test_torchrun_stopped_on_one_host_stops_the_run_on_both_with_a_checkpoint(hosts, whole):
    first, second = hosts
    processes = torchrun(hosts)
    until_step(first, 12, processes)
    second.signal(TORCHRUN, signal.SIGTERM)
    assert all(code != 0 for code, _ in ended(processes, SOON)), said(first) + said(second)
    assert runs(first) == [("KILLED", "stopped by SIGTERM")]
    assert first.processes() == second.processes() == {}
    step = checkpoint_files.newest(first.home / "run").step
    assert step >= json.loads((first.home / "run/progress.json").read_text())["step"]


def test_a_failure_on_the_other_host_is_shown_with_its_traceback(hosts):
    for host, line in zip(hosts, ["pass", "if calls > 40: raise ValueError('on purpose')"], strict=True):
        (host.home / "trouble.py").write_text(
            "from gantry.models.losses import wasserstein\ncalls = 0\n"
            f"def loss(real, fake):\n    global calls\n    calls += 1\n    {line}\n    return wasserstein(real, fake)\n"
        )
    first, second = hosts
    assert all(code != 0 for code, _ in ended(torchrun(hosts, TROUBLE), 120)), said(first) + said(second)
    assert runs(first) == [("FAILED", "rank 1 on beta: ValueError: on purpose")]
    assert "trouble.py" in said(first)  # in the traceback
    assert first.processes() == second.processes() == {}


def test_a_host_without_the_data_does_not_keep_the_other_waiting(hosts):
    first, second = hosts
    pictures = first.home / "pictures"
    pictures.mkdir()
    for n in range(32):
        Image.new("RGB", (16, 16), (8 * n, 0, 0)).save(pictures / f"{n}.png")
    there_only = ["data=image_folder", f"data.folder={pictures}", "data.image_size=16"]
    assert all(code != 0 for code, _ in ended(torchrun(hosts, *there_only), SOON)), said(first) + said(second)
    assert "rank 1 on beta: ended before it met the others" in state(first)["reason"]
    assert str(pictures) in said(second)
    assert first.processes() == second.processes() == {}


def test_what_srun_starts_is_one_run(hosts, whole):
    """With the variables that srun sets, as its manual has them; no SLURM is here."""
    first, second = hosts
    for host in hosts:
        host.names({"localhost": "127.0.0.1", **{other.name: other.address for other in hosts}})
    job = {"SLURM_JOB_ID": "41234", "SLURM_JOB_NAME": "gan", "SLURM_NNODES": "2", "SLURM_JOB_NUM_NODES": "2"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NODELIST": "alpha,beta"}
    job |= {"SLURM_JOB_NODELIST": "alpha,beta", "SLURM_TASKS_PER_NODE": "1(x2)", "SLURM_LOCALID": "0"}
    processes = [
        host.start(
            [sys.executable, *RUN, *BOTH],
            host.home / "out.txt",
            _environment(host.home) | job | {"SLURM_PROCID": str(n), "SLURM_NODEID": str(n)},
        )
        for n, host in enumerate(hosts)
    ]
    assert [code for code, _ in ended(processes, 200)] == [0, 0], said(first) + said(second)
    assert runs(first) == [("FINISHED", None)]
    assert distance(whole, first.home / "run") < 1e-5
    assert not (second.home / "run").exists()
    assert not (second.home / "mlruns").exists()
