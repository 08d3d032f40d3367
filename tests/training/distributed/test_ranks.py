"""One run of several real processes: what it leaves, and how it ends when one of them does."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from project import ROOT

from gantry.core.errors import RunFailed
from gantry.runs import checkpoint_files
from gantry.runs.tracking.store import prepare_store
from gantry.training.distributed.watch import Watch
from gantry.training.run import train

# Without BatchNorm, on images that the batch does not divide, with penalties and flips drawn for the whole batch.
RUN = [
    "experiment=smoke",
    "trainer.precision=32-true",
    "model=wgan_gp",
    "model.n_critic=2",
    "model.generator.norm=layer",
    "data.image_size=8",
]
RUN += [
    "model.generator.width=8",
    "model.discriminator.width=8",
    "max_images=100",
    "steps=20",
    "metrics.every=20",
]
HERE = Path(__file__).parent


@pytest.fixture
def start(tmp_path, cache):
    """Start train.py with overrides in `tmp_path`; whatever it left running is killed in the end."""
    started = []

    def start(*overrides, output=subprocess.PIPE):
        paths = os.pathsep.join([str(HERE), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, ROOT / "train.py", "trainer=ddp", "trainer.devices=2", f"paths.cache={cache}"]
        process = subprocess.Popen(
            [*command, *overrides],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
    left = ranks_of(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def ranks_of(folder):
    """The processes, by rank, that have the folder on their command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
            environment = path.with_name("environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(str(folder) in word for word in words) and any(word.startswith("GANTRY_RANKS=") for word in environment):
            rank = next(word.partition("=")[2] for word in environment if word.startswith("LOCAL_RANK="))
            found[int(rank)] = int(path.parent.name)
    return [found[rank] for rank in sorted(found)]


def listening(pid):
    """The addresses, in the kernel's hexadecimal, that a process listens on."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").rstrip("]"))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def ended(process, seconds=120):
    text, _ = process.communicate(timeout=seconds)
    return text


def run_of(folder):
    client, experiment = prepare_store(folder / "mlruns", "gantry")
    (run,) = client.search_runs([experiment])
    return client, run


def weights(folder):
    return torch.load(checkpoint_files.newest(folder).path, map_location="cpu", weights_only=True)["state_dict"]


def assert_close(found, expected, tolerance):
    for name, value in expected.items():
        difference = (found[name].double() - value.double()).norm() / value.double().norm().clamp_min(1e-12)
        assert difference < tolerance, name


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    """The same run on one rank."""
    from hydra import compose, initialize_config_dir

    folder = tmp_path_factory.mktemp("alone")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [*RUN, "tracking=none", f"paths.root={folder}", f"paths.cache={cache}"])
    summary = train(cfg, folder, {"variant": "wgan_gp", "dataset": "digits"})
    return folder, summary


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], key): value for line in lines for key, value in line.items() if "/" in key}


def test_two_ranks_are_one_run(start, alone, tmp_path):
    whole, summary = alone
    folder = tmp_path / "run"
    process = start(*RUN, f"hydra.run.dir={folder}")
    heard = set()
    while process.poll() is None:
        for pid in (process.pid, *ranks_of(folder)):
            heard |= listening(pid)
        time.sleep(0.3)
    text = ended(process)
    assert process.returncode == 0, text
    assert heard == {"0100007F"}  # 127.0.0.1, and no other
    assert text.count("wgan_gp on digits: 20 generator steps") == 2  # begun once, summed up once

    assert_close(weights(folder), weights(whole), 1e-5)
    final = json.loads((folder / "summary.json").read_text())
    assert final["final"] == pytest.approx(summary.final, rel=1e-4)
    assert final["images"] == summary.images
    here, there = logged(folder), logged(whole)
    assert here.keys() == there.keys()
    losses = {key: value for key, value in there.items() if key[1].split("/")[0] in ("loss", "score", "penalty")}
    assert {key: here[key] for key in losses} == pytest.approx(losses, rel=1e-3, abs=1e-5)

    client, run = run_of(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.params["trainer.devices"] == "2"
    points = client.get_metric_history(run.info.run_id, "loss/generator")
    assert [point.step for point in points] == sorted({point.step for point in points})
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".txt") == ["rank_1.txt"]

    again = start(f"resume={folder}")
    assert "is finished and kept" in ended(again)
    assert again.returncode == 0


def harm(words):
    return ["experiment=smoke", "model=vanilla", "data.image_size=8", "steps=40", "metrics.every=2",
            "model.loss._target_=rank_saboteurs.loss", f"+model.loss.harms='{words}'"]  # fmt: skip


def check_failed(folder, process, said):
    text = ended(process)
    assert process.returncode not in (0, 2), text
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "FAILED"
    assert said in status["reason"]
    return text


@pytest.mark.slow
def test_a_failure_of_one_rank_is_the_runs(start, tmp_path):
    folder = tmp_path / "run"
    process = start(*harm("1-fail"), f"hydra.run.dir={folder}")
    text = check_failed(folder, process, "rank 1 on")
    assert "rank_saboteurs.py" in text  # the traceback, on the terminal
    assert text.count("ValueError: on purpose") == 1, text
    assert "ValueError: on purpose" in json.loads((folder / "status.json").read_text())["reason"]
    _, run = run_of(tmp_path)
    assert run.info.status == "FAILED"
    assert "rank 1 on" in run.data.tags["gantry.reason"]


def test_what_a_rank_can_explain_is_told_whole_and_without_a_traceback():
    store = torch.distributed.HashStore()
    for rank in (0, 1):
        store.set(f"host/{rank}", "here")
    cause = Watch(store, 1, 2).cause_of(RunFailed("out of memory. What helps:\n  a smaller batch"))
    failure = cause.failure()
    assert failure.reason == "rank 1 on here: out of memory. What helps:\n  a smaller batch"
    assert str(failure) == "rank 1 on here failed:\nout of memory. What helps:\n  a smaller batch"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("1-kill", "rank 1 on"),
        ("0-kill", "rank 0: killed by SIGKILL"),
        ("1-exit", "rank 1 on"),
        ("0-wait 1-fail", "ValueError: on purpose"),  # rank 0 sits where no error can reach it
        ("1-wait 0-fail", "ValueError: on purpose"),
    ],
)
def test_whatever_ends_a_rank_ends_the_job(start, tmp_path, words, said):
    folder = tmp_path / "run"
    check_failed(folder, start(*harm(words), f"hydra.run.dir={folder}"), said)


def steps_done(folder):
    try:
        return json.loads((folder / "progress.json").read_text())["step"]
    except (OSError, ValueError):
        return 0


LONG = [*RUN, "steps=200", "metrics.every=200", "tracking=none"]


@pytest.fixture
def stopped(start, tmp_path):
    """A run that a signal to its first process, which passes it on, has stopped; and at which step."""
    folder = tmp_path / "run"
    process = start(*LONG, f"hydra.run.dir={folder}")
    deadline = time.time() + 90
    while steps_done(folder) < 2 and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    text = ended(process)
    assert process.returncode == 128 + signal.SIGTERM, text
    return folder, checkpoint_files.newest(folder).step


def test_all_ranks_stop_at_the_same_step_and_leave_a_checkpoint(stopped):
    folder, step = stopped
    assert 0 < step < 200
    assert json.loads((folder / "status.json").read_text())["status"] == "KILLED"


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_end(start, stopped, tmp_path):
    folder, step = stopped
    refused = start(f"resume={folder}", "seed=1")
    assert "seed: was 0, is 1" in ended(refused)
    assert refused.returncode == 2
    assert json.loads((folder / "status.json").read_text())["status"] == "KILLED"
    process = start(f"resume={folder}")
    text = ended(process)
    assert process.returncode == 0, text
    assert f"continues at step {step}" in text
    whole = tmp_path / "whole"
    ended(start(*LONG, f"hydra.run.dir={whole}"))
    assert_close(weights(folder), weights(whole), 1e-12)
    here, there = logged(folder), logged(whole)
    losses = {key: value for key, value in there.items() if key[1].startswith(("loss/", "score/"))}
    assert {key: here[key] for key in losses} == pytest.approx(losses, rel=1e-5)


@pytest.mark.slow
def test_ranks_begin_at_a_chosen_checkpoint_and_with_trained_weights(start, tmp_path):
    def done(name, *overrides):
        process = start(*overrides, "tracking=none", f"hydra.run.dir={tmp_path / name}")
        text = ended(process)
        assert process.returncode == 0, text
        return tmp_path / name, text

    old, _ = done("old", *RUN, "metrics.every=10", "checkpoint.keep=9")
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    (half,) = [one for one in checkpoint_files.found(old, "step") if one.step == 10]

    new, text = done("new", f"resume={half.path}")
    assert "at step 10" in text
    assert_close(weights(new), weights(old), 1e-12)

    init = [*RUN, "steps=2", "metrics.every=2", f"init_from={old}"]
    both, text = done("both", *init)
    assert text.count("trained weights") == 1, text
    one, _ = done("one", *init, "trainer.devices=1")
    assert_close(weights(both), weights(one), 1e-5)
    assert (both / "samples" / "0000000.png").read_bytes() == (old / "samples" / "0000020.png").read_bytes()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_when_the_first_process_is_killed_its_ranks_leave_a_checkpoint(start, tmp_path):
    folder = tmp_path / "run"
    process = start(*RUN, "steps=2000", "metrics.every=2000", f"hydra.run.dir={folder}", output=subprocess.DEVNULL)
    deadline = time.time() + 90
    while steps_done(folder) < 2 and time.time() < deadline:
        time.sleep(0.05)
    process.kill()
    while ranks_of(tmp_path) and time.time() < deadline:
        time.sleep(0.2)
    assert ranks_of(tmp_path) == []
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "KILLED"
    assert "the process that started it was killed" in status["reason"]
    assert checkpoint_files.newest(folder).step >= 2


@pytest.mark.slow
def test_a_sweep_of_runs_of_two_ranks_outlives_the_death_of_one_rank(start, tmp_path):
    overrides = [text for text in harm("") if not text.startswith("+model.loss.harms")]
    process = start(*overrides, "+model.loss.harms='9-none','1-kill','0-fail'", "steps=8", "-m")
    text = ended(process, 300)
    assert process.returncode == 1, text
    client, experiment = prepare_store(tmp_path / "mlruns", "gantry")
    runs = client.search_runs([experiment])
    (parent,) = [run for run in runs if run.data.tags.get("gantry.kind") == "sweep"]
    jobs = {run.data.params.get("model.loss.harms"): run for run in runs if run is not parent}
    assert {name: run.info.status for name, run in jobs.items()} == {
        "9-none": "FINISHED",
        "1-kill": "FAILED",
        "0-fail": "FAILED",
    }
    assert len(runs) == 4
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in jobs.values())


@pytest.mark.slow
def test_loggers_of_ones_own_are_the_first_ranks(start, tmp_path):
    monitor = "+trainer.callbacks=[{_target_: pytorch_lightning.callbacks.LearningRateMonitor}]"
    logger = "+trainer.logger=[{_target_: pytorch_lightning.loggers.CSVLogger, save_dir: .}]"
    process = start(*RUN, "tracking=none", "log_every=1", monitor, logger, f"hydra.run.dir={tmp_path}/run")
    text = ended(process, 120)
    assert process.returncode == 0, text
    (file,) = tmp_path.rglob("metrics.csv")
    assert file == tmp_path / "run" / "lightning_logs" / "version_0" / "metrics.csv"
    assert {"lr-Adam", "loss/generator", "final/fid_classifier"} <= set(file.read_text().splitlines()[0].split(","))
    assert any("lr-Adam" in line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
