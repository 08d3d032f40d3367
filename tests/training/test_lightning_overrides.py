"""Each change inside Lightning, pinned to what it replaces: an update of Lightning that moves it fails here."""

import os
import signal

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loops import training_epoch_loop
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import strategy
from small import NOISE, bare_trainer
from torch import nn

from gantry.core.processes.devices import GPUS
from gantry.data.batches import Batches
from gantry.models.losses import non_saturating
from gantry.models.module import GAN
from gantry.models.networks import dcgan
from gantry.training.lightning_overrides import (
    HOOK,
    STEP_HOOKS,
    NoProfiler,
    gpus_not_looked_for,
    know_the_arguments_of_a_step,
    leave_out_empty_hooks,
    leave_signals,
    note_hooks_quickly,
    return_to_device,
)

STEPS = 2


def gan(n_critic=1):
    networks = dcgan.Generator(6, (1, 8, 8), 4), dcgan.Discriminator((1, 8, 8), 4, "none")
    return GAN(*networks, non_saturating, torch.optim.Adam, z_dim=6, seed=0, batch_size=6, n_critic=n_critic)


def fit(trained=None, **options):
    trained = trained or gan()
    trainer = bare_trainer(STEPS, **options)
    trainer.fit(trained, Batches(NOISE, 6, trained.n_critic, 0))
    return trainer


def test_only_the_generators_optimizer_steps_are_counted():
    """By its wrapper alone; the strategy, and so every hook, sees all of them."""
    seen = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen.append(trainer.optimizers.index(optimizer))

    trainer = fit(gan(n_critic=2), callbacks=[Watch()])
    assert seen == [1, 1, 0] * STEPS
    assert trainer.global_step == STEPS


def test_lightning_notes_its_hooks_by_an_attribute_that_torch_no_longer_searches_for(monkeypatch):
    monkeypatch.setattr(LightningModule, "__setattr__", nn.Module.__setattr__, raising=False)
    searched, usual = [], nn.Module.__setattr__
    monkeypatch.setattr(nn.Module, "__setattr__", lambda *given: (searched.append(given[1]), usual(*given))[1])
    monkeypatch.setattr(LightningModule, "__setattr__", nn.Module.__setattr__)
    fit()
    assert searched.count(HOOK) > 40  # Lightning still does it
    note_hooks_quickly()
    searched.clear()
    trained = gan()
    names = [name for name, _ in trained.named_parameters()]
    fit(trained)
    assert HOOK not in searched
    assert getattr(trained, HOOK) is None  # and it ends as Lightning leaves it
    trained.more = nn.Linear(1, 1)
    assert [name for name, _ in trained.named_parameters()] == [*names, "more.weight", "more.bias"]


def test_the_profiler_that_does_nothing_is_asked_at_every_step():
    assert Trainer(logger=False, enable_checkpointing=False).profiler.__class__ is PassThroughProfiler
    asked = []

    class Counting(NoProfiler):
        def profile(self, action_name):
            asked.append(action_name)
            return super().profile(action_name)

    fit(profiler=Counting())
    assert len(asked) > 10 * STEPS
    assert NoProfiler().profile("one") is NoProfiler().profile("two")


@pytest.mark.parametrize("known", [True, False])
def test_the_arguments_of_a_step_are_known_without_its_signature(known, monkeypatch):
    read, indices = [], []
    usual = training_epoch_loop.is_param_in_hook_signature

    def counting(hook, *given, **options):
        read.append(hook)
        return usual(hook, *given, **options)

    monkeypatch.setattr(training_epoch_loop, "is_param_in_hook_signature", counting)
    trained, trainer = gan(), bare_trainer(STEPS)
    step = trained.training_step
    trained.training_step = lambda batch, batch_idx: (indices.append(batch_idx), step(batch, batch_idx))[1]
    if known:
        know_the_arguments_of_a_step(trainer)
    trainer.fit(trained, Batches(NOISE, 6, 1, 0))
    assert indices == list(range(STEPS))
    assert len(read) == (0 if known else STEPS)  # Lightning still reads it at each


def test_hooks_left_as_they_are_are_skipped_and_others_are_called():
    called = []

    class Ends(Callback):
        def on_train_batch_end(self, *_):
            called.append(self)

    callbacks = [Ends(), Callback()]
    leave_out_empty_hooks(callbacks)
    assert [[getattr(callback, hook) is None for hook in STEP_HOOKS].count(False) for callback in callbacks] == [1, 0]
    fit(callbacks=callbacks)
    assert called == callbacks[:1] * STEPS


def test_without_a_gpu_torch_is_told_so_for_as_long_as_it_trains(monkeypatch):
    monkeypatch.delenv(GPUS, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with gpus_not_looked_for():
        assert os.environ[GPUS] == ""
    assert GPUS not in os.environ
    monkeypatch.setenv(GPUS, "0")  # the user's own word stands
    with gpus_not_looked_for():
        assert os.environ[GPUS] == "0"
    monkeypatch.delenv(GPUS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with gpus_not_looked_for():
        assert GPUS not in os.environ


def test_what_lightning_moves_to_the_cpu_after_fit_returns_to_the_device(monkeypatch):
    """The state of the optimizers too; the meta device stands for a GPU."""
    moved, move = [], strategy._optimizers_to_device
    monkeypatch.setattr(strategy, "_optimizers_to_device", lambda *given: (moved.append(given[1]), move(*given)))
    trained = gan()
    trainer = fit(trained)
    assert moved == [trainer.strategy.root_device, torch.device("cpu")]  # where it is set up, and torn down
    monkeypatch.setattr(type(trainer.strategy), "root_device", torch.device("meta"))
    return_to_device(trainer, trained)
    states = [state for one in trainer.optimizers for state in one.state.values()]
    tensors = [value for state in states for name, value in state.items() if name != "step"]
    assert {tensor.device.type for tensor in (*trained.parameters(), *trained.buffers(), *tensors)} == {"meta"}
    assert len(tensors) == 2 * len([*trained.generator.parameters(), *trained.discriminator.parameters()])


@pytest.mark.parametrize("left", [True, False])
def test_signals_are_left_to_whoever_handles_them(left, monkeypatch):
    """Lightning's own handlers are registered for the time of a fit, unless it is told to leave signals."""
    within = []

    class Watch(Callback):
        def on_train_batch_start(self, *_):
            within.append(signal.getsignal(signal.SIGTERM))

    def mine(*_):
        pass

    before = signal.signal(signal.SIGTERM, mine)
    try:
        trainer = Trainer(
            max_steps=1, logger=False, enable_checkpointing=False, callbacks=[Watch()], enable_progress_bar=False
        )
        if left:
            leave_signals(trainer)
        trainer.fit(BoringModel())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (within == [mine]) is left


def test_ranks_are_not_asked_at_every_step_whether_one_was_told_to_stop(monkeypatch):
    """Under that name Lightning's loop does so, where there are several."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    asked = []
    for left in (False, True):
        trainer = bare_trainer(1)
        monkeypatch.setattr(type(trainer), "world_size", 2)
        loop = trainer.fit_loop.epoch_loop
        monkeypatch.setattr(type(loop), "_broadcast_sigterm_tensor", lambda _: asked.append(True))
        if left:
            leave_signals(trainer)
        with pytest.raises(StopIteration):  # there is no batch
            loop.advance(iter(()))
    assert asked == [True]
