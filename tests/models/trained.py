"""Trainings through Lightning for tests of replayed steps, with what such a step can meet."""

from dataclasses import replace
from types import SimpleNamespace

import torch
from pytorch_lightning import Callback
from small import NOISE, bare_trainer
from torch import nn

from gantry.core.randomness import draws
from gantry.data.batches import Batches
from gantry.training.callbacks.diagnostics import Health
from gantry.training.callbacks.divergence import Guard
from gantry.training.model import build_model

SMALL = ["data.image_size=8", "batch_size=6", "model.generator.width=4", "model.discriminator.width=4"]
FLIPPED = replace(NOISE, flip=True, labels=draws(0, 1, "labels").integers(0, 3, len(NOISE)), classes=("a", "b", "c"))


def train(
    cfg, fixed=None, steps=5, data=NOISE, start=0, checkpoint=None, change=None, penalties=None, accelerator="cpu"
):
    """Train through Lightning, with the checks that ask for norms of gradients; what came of it."""
    gan, _ = build_model(cfg, data)
    gan.fixed = fixed
    if penalties is not None:
        gan.penalties = penalties
    records, one = [], gan.training_step
    gan.training_step = lambda *batch: (records.append(dict(one(*batch)) | gan.gradient_norms), records[-1])[1]
    precision = cfg.trainer.precision if cfg.trainer.precision != "auto" else "32-true"
    trainer = bare_trainer(steps, accelerator, precision=precision, devices=1)
    few = [torch.from_numpy(part[:4]) for part in (data.images, data.labels)]
    health = Health(SimpleNamespace(set_tags=lambda tags: None), 10, *few)
    trainer.callbacks += [Guard(10), health]
    if change is not None:
        trainer.callbacks.append(change)
    resident = fixed is not None and fixed.images is not None
    batches = Batches(data, gan.batch_size, gan.real_batches, gan.seed, start=start, indices=resident)
    trainer.fit(gan, batches, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    states = [optimizer.state_dict()["state"] for optimizer in trainer.optimizers]
    return SimpleNamespace(records=records, weights=gan.state_dict(), states=states, trainer=trainer, gan=gan)


def assert_equal(one, other):
    """To the bit: weights, buffers, averages, optimizers and recorded values."""
    assert one.trainer.global_step == other.trainer.global_step
    assert [{name: float(v) for name, v in record.items()} for record in one.records] == [
        {name: float(v) for name, v in record.items()} for record in other.records
    ]
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name]), name
    for mine, theirs in zip(one.states, other.states, strict=True):
        for weight, state in mine.items():
            assert all(torch.equal(value, theirs[weight][name]) for name, value in state.items()), weight


class Changing(Callback):
    """Sets an option of the first optimizer before each step."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        trainer.optimizers[0].param_groups[0][self.name] = self.value(batch_idx)


class Odd(nn.Module):
    """A penalty that does what a graph cannot."""

    every = 1

    def __init__(self, kind):
        super().__init__()
        self.kind, self.calls = kind, 0

    def forward(self, discriminator, real, fake, uniform):
        self.calls += 1
        loss = discriminator(real).mean()
        if self.kind == "reads a value":
            return loss * loss.item()
        return loss * 100 * self.calls
