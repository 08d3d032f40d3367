"""What follows where training diverges: the run ends truthfully, or goes back and tries other noise."""

import json
import time
from types import SimpleNamespace

import pytest
import torch

from gantry.core.errors import RunFailed
from gantry.core.processes.signals import Stop, Stopped
from gantry.models.module import GAN
from gantry.runs import checkpoint_files
from gantry.runs.folder import read_metrics
from gantry.runs.tracking.tracker import Trackers
from gantry.training import run
from gantry.training.callbacks.divergence import Diverged
from gantry.training.callbacks.logging import TrainingLog
from gantry.training.resume import take_up
from gantry.training.stopwatch import Clock

TAGS = {"variant": "wgan", "dataset": "digits"}
NARROW = ["model.generator.width=4", "model.discriminator.width=4"]
SMALL = ["experiment=smoke", "model=dcgan", *NARROW, "steps=8", "metrics.every=4", "checkpoint.every=2"]
BACK = ["guard.policy=rollback", "guard.every=1", "log_every=1"]


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in ("run", "whole"):
        (tmp_path / name).mkdir()


@pytest.fixture
def diverging(monkeypatch):
    """Have training meet an infinite weight in step 6, as long as its noise is of the first streams."""

    def diverging(streams):
        step = GAN.training_step

        def training_step(self, batch, batch_idx):
            if self.global_step == 5 and self.noise_stream < streams:
                next(self.generator.parameters()).data[0, 0] = torch.inf
            return step(self, batch, batch_idx)

        monkeypatch.setattr(GAN, "training_step", training_step)

    return diverging


def weights(folder):
    return torch.load(checkpoint_files.newest(folder, checkpoint_files.STEP).path, weights_only=True)["state_dict"]


def all_equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def steps(folder):
    return [line["step"] for line in read_metrics(folder) if "loss/generator" in line]


def test_by_default_a_diverged_run_fails_and_keeps_its_last_good_checkpoint(config, tmp_path, diverging):
    diverging(1)
    with pytest.raises(Diverged, match="generator"):
        run.train(config(*SMALL, "guard.every=3"), tmp_path / "run", TAGS)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "FAILED"
    assert status["reason"].startswith("diverged between steps 5 and 6")
    assert checkpoint_files.newest(tmp_path / "run").step == 4
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_rollback_goes_on_with_other_noise(config, tmp_path, diverging, caplog):
    run.train(config(*SMALL, *BACK), tmp_path / "whole", TAGS)
    diverging(1)
    run.train(config(*SMALL, *BACK), tmp_path / "run", TAGS)
    assert "back to step 4 with noise stream 1" in caplog.text
    assert "back to step 4" in json.loads((tmp_path / "run" / "tags.json").read_text())["gantry.rollbacks"]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "FINISHED"
    assert steps(tmp_path / "run") == list(range(1, 9))
    kept = (tmp_path / "run" / "earlier" / "rollback_1.jsonl").read_text().splitlines()
    assert json.loads(kept[-1])["step"] == 5
    mine, theirs = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(value.isfinite().all() for value in mine.values())
    assert not all_equal(mine, theirs)


@pytest.mark.parametrize("step", [5, pytest.param(7, marks=pytest.mark.slow)])
def test_a_run_that_was_rolled_back_resumes_with_the_noise_it_had(step, config, tmp_path, diverging, monkeypatch):
    diverging(1)
    run.train(config(*SMALL, *BACK), tmp_path / "whole", TAGS)

    class Once(Stop):
        """Asked to stop after that step."""

        def check(self):
            if steps(tmp_path / "run")[-1:] == [step] and (tmp_path / "run" / "earlier").exists():
                raise Stopped(15)

    monkeypatch.setattr("gantry.training.build.AgreedStop", lambda _: Once())
    with pytest.raises(Stopped):
        run.train(config(*SMALL, *BACK), tmp_path / "run", TAGS)
    monkeypatch.setattr("gantry.training.build.AgreedStop", lambda _: Stop())
    start = take_up(tmp_path / "run", config(*SMALL, *BACK))
    assert start.step == step
    run.train(config(*SMALL, *BACK), tmp_path / "run", TAGS, start)
    assert all_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert steps(tmp_path / "run") == list(range(1, 9))
    assert len(list((tmp_path / "run" / "earlier").iterdir())) == 1


def test_stopped_after_it_has_diverged_a_run_keeps_no_checkpoint_of_that(
    config, tmp_path, diverging, monkeypatch, caplog
):
    class Once(Stop):
        """Asked to stop after the seventh step."""

        def check(self):
            if steps(tmp_path / "run")[-1:] == [7]:
                raise Stopped(15)

    diverging(1)
    monkeypatch.setattr("gantry.training.build.AgreedStop", lambda _: Once())
    late = [*SMALL, "log_every=1", "guard.every=50", "checkpoint.every=5", "metrics.every=8"]
    with pytest.raises(Stopped):
        run.train(config(*late), tmp_path / "run", TAGS)
    assert checkpoint_files.newest(tmp_path / "run").step == 5
    assert "no longer finite" in caplog.text
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "KILLED"


def test_the_time_that_a_rollback_repeats_counts():
    clock, trainer, gan = Clock(), SimpleNamespace(global_step=0), SimpleNamespace(device="cpu")
    log = TrainingLog(Trackers(), clock, 1)
    log.on_train_start(trainer, gan)
    with clock.stopped():
        state = log.state_dict()
    time.sleep(0.05)  # training, which diverges
    log.load_state_dict(state)
    log.on_train_start(trainer, gan)
    assert clock.read() >= 0.05


def test_after_so_many_rollbacks_the_run_ends(config, tmp_path, diverging):
    diverging(9)
    with pytest.raises(RunFailed, match=r"guard\.max_rollbacks=2"):
        run.train(config(*SMALL, *BACK, "guard.max_rollbacks=2"), tmp_path / "run", TAGS)
    assert sorted(path.name for path in (tmp_path / "run" / "earlier").iterdir()) == [
        "rollback_1.jsonl",
        "rollback_2.jsonl",
    ]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "FAILED"


def test_a_kill_right_after_a_rollback_does_not_forget_it(config, tmp_path, diverging, monkeypatch):
    diverging(1)
    killed = []

    def die(self, batch, batch_idx):
        if self.noise_stream:
            killed.append(self.global_step)
            raise KeyError("as good as killed")
        return step(self, batch, batch_idx)

    step = GAN.training_step
    monkeypatch.setattr(GAN, "training_step", die)
    with pytest.raises(KeyError):
        run.train(config(*SMALL, *BACK), tmp_path / "run", TAGS)
    monkeypatch.setattr(GAN, "training_step", step)
    cfg = config(*SMALL, *BACK, f"resume={tmp_path}/run")
    run.train(cfg, tmp_path / "run", TAGS, take_up(tmp_path / "run", cfg))
    run.train(config(*SMALL, *BACK), tmp_path / "whole", TAGS)
    assert killed == [4]
    assert len(list((tmp_path / "run" / "earlier").iterdir())) == 1
    assert all_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_rollbacks_are_counted_over_the_whole_run(config, tmp_path, diverging):
    diverging(9)
    last = [*SMALL, *BACK, "guard.max_rollbacks=1", f"resume={tmp_path}/run"]
    for start in (None, lambda: take_up(tmp_path / "run", config(*last))):
        with pytest.raises(RunFailed, match=r"guard\.max_rollbacks=1"):
            run.train(config(*last), tmp_path / "run", TAGS, start and start())
    assert len(json.loads((tmp_path / "run" / "tags.json").read_text())["gantry.rollbacks"].split(" | ")) == 1
