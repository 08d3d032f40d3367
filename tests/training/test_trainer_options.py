"""Every argument of Lightning's Trainer works in a run, or is refused with what to set instead."""

import inspect
import sys

import pytest
from hydra import compose, initialize_config_dir
from project import ROOT
from pytorch_lightning import Trainer

from gantry.commands import train
from gantry.core.config.lightning import TRAINER
from gantry.core.errors import UserError
from gantry.training.rules import check_run

WORK = {
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "logger", "callbacks", "sync_batchnorm"),
    *("deterministic", "benchmark", "profiler", "detect_anomaly"),
}


def refusal(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", ["paths.root=/tmp", "tracking=none", *overrides])
    with pytest.raises(UserError) as refused:
        check_run(config)
    return str(refused.value)


def test_each_argument_is_decided():
    arguments = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert arguments == WORK | TRAINER.keys()
    assert not WORK & TRAINER.keys()


@pytest.mark.parametrize("name", TRAINER)
def test_what_would_do_nothing_is_refused_with_the_reason(name):
    assert f"trainer.{name}: {TRAINER[name]}" in refusal(f"+trainer.{name}=1").splitlines()


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        *(("log_every_n_steps", "log_every"), ("val_check_interval", "metrics.every"), ("max_epochs", "steps")),
        *(("num_sanity_val_steps", "metrics.every"), ("limit_val_batches", "metrics.every"), ("max_steps", "steps")),
        *(("model_registry", "register="), ("gradient_clip_val", "model.max_grad_norm"), ("fast_dev_run", "smoke")),
    ],
)
def test_our_own_option_is_named(name, ours):
    assert ours in refusal(f"+trainer.{name}=2")


def test_other_names_are_refused_with_those_that_work():
    assert "its options: accelerator, strategy, devices" in refusal("+trainer.profilr=simple")
    assert refusal("+trainer.profiler=xla").startswith("trainer.profiler: must be one of simple, advanced, pytorch")
    assert "trainer=ddp" in refusal("+trainer.strategy=fsdp")


def test_a_profile_is_in_the_runs_folder_and_the_summary_names_it(monkeypatch, tmp_path, cache, capsys):
    monkeypatch.chdir(tmp_path)
    short = ["experiment=smoke", "steps=1", "batch_size=8", "max_images=64", "metrics.n_generated=16", "model=vanilla"]
    more = ["tracking=none", f"paths.cache={cache}", "hydra.run.dir=run", "+trainer.profiler=simple"]
    switched_on = ["+trainer.deterministic=true", "+trainer.detect_anomaly=true", "+trainer.benchmark=true"]
    monkeypatch.setattr(sys, "argv", ["train.py", *short, *more, *switched_on])
    train.main()
    assert "[Strategy]SingleDeviceStrategy.training_step" in (tmp_path / "run/fit-profile.txt").read_text()
    assert "profile    run/fit-profile.txt" in capsys.readouterr().out
