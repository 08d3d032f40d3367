"""What follows the last step finds the networks and the optimizers' state on the device."""

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.strategies import strategy

from gantry.runs import checkpoint_files
from gantry.runs.folder import read_metrics
from gantry.training import lightning_overrides
from gantry.training.run import train

TAGS = {"variant": "dcgan", "dataset": "digits"}
NARROW = ["model.generator.width=4", "model.discriminator.width=4"]
SMALL = ["experiment=smoke", "model=dcgan", *NARROW, "steps=8", "metrics.every=8", "guard.every=50"]
ENDS = 3  # the step after which a callback ends training: between two looks, two evaluations and two checkpoints


class Ender(Callback):
    """Ends training early, as EarlyStopping does."""

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == ENDS


@pytest.fixture
def elsewhere(monkeypatch):
    """The meta device, to which the optimizers' state is moved when `fit` ends, as else from a GPU to the CPU.

    There it has no values, and an operation that takes it beside another tensor raises; what is kept here comes back.
    """
    kept = {}

    def leave(optimizers, device):
        for state in (state for one in optimizers for state in one.state.values()):
            for name in state.keys() - {"step"}:
                away = state[name].to("meta")
                kept[away], state[name] = state[name], away

    def come_back(optimizers, device):
        for state in (state for one in optimizers for state in one.state.values()):
            for name in state.keys() - {"step"}:
                state[name] = kept.pop(state[name])

    monkeypatch.setattr(strategy, "_optimizers_to_device", leave)
    monkeypatch.setattr(lightning_overrides, "_optimizers_to_device", come_back)
    return kept


def check_ended_early(folder, summary):
    assert summary.steps == ENDS
    assert [line["step"] for line in read_metrics(folder) if summary.primary in line] == [0, ENDS]
    last = torch.load(checkpoint_files.newest(folder).path, weights_only=True)
    assert last["global_step"] == ENDS
    assert all(
        value.isfinite().all() for state in last["optimizer_states"][0]["state"].values() for value in state.values()
    )


def test_a_run_that_a_callback_ends_between_two_looks_is_checked_measured_and_saved(config, tmp_path, elsewhere):
    check_ended_early(tmp_path, train(config(*SMALL), tmp_path, TAGS, watching=[Ender()]))
    assert not elsewhere


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["dcgan", "sngan", "wgan"])
def test_the_same_on_a_gpu(config, tmp_path, model):
    cfg = config(*SMALL, f"model={model}", "trainer.accelerator=gpu")
    check_ended_early(tmp_path, train(cfg, tmp_path, TAGS, watching=[Ender()]))
