"""Warnings of a GAN in trouble: what each is for, said once, taken back, and without touching training."""

import logging
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from small import bare_trainer
from torch import nn

from gantry.core.randomness import draws
from gantry.data.batches import Batches
from gantry.data.images import ImageSet
from gantry.models.losses import non_saturating
from gantry.models.module import GAN
from gantry.models.networks import dcgan
from gantry.training.callbacks.diagnostics import START, Health, Measures, distances, findings

PIXELS = draws(0, 0, "test images").integers(0, 256, (60, 1, 8, 8), dtype="uint8")
DATA = ImageSet("noise", PIXELS, None, None, "all", "drawn", "0" * 64, flip=False)
REAL = torch.from_numpy(PIXELS[:16])
EVERY = 2
HEALTHY = Measures(real=0.5, fake=-0.5, apart=0.8, gradient=0.5, spread=1.0, nearest=1.1, change=1e-2)


class Tags(dict):
    """A tracker that keeps tags."""

    def set_tags(self, tags):
        self.update(tags)


class Noisy(dcgan.Generator):
    """Adds noise of torch's global generator to its images, also in eval mode."""

    def forward(self, z):
        images = super().forward(z)
        return images + 0.01 * torch.randn_like(images)


def gan_of(generator=dcgan.Generator, lr=1e-3):
    torch.manual_seed(0)
    networks = generator(6, (1, 8, 8), 4), dcgan.Discriminator((1, 8, 8), 4)
    optimizer = partial(torch.optim.SGD, lr=lr)
    return GAN(*networks, non_saturating, optimizer, z_dim=6, seed=0, batch_size=6)


def fit(gan, *callbacks, steps=8, start=0, checkpoint=None):
    trainer = bare_trainer(steps, callbacks=list(callbacks))
    trainer.fit(gan, Batches(DATA, gan.batch_size, gan.n_critic, gan.seed, start=start), ckpt_path=checkpoint)
    return trainer


@pytest.mark.parametrize(
    ("begun", "changed", "expected"),
    [
        (True, {}, []),
        (True, {"apart": 1.0, "gradient": 1e-4}, ["discriminator_won"]),
        (True, {"apart": 1.0, "gradient": 0.05}, []),  # a good critic that leads the generator on
        (True, {"apart": 0.7, "gradient": 1e-4}, []),  # the end of training, where nothing is left to learn
        (True, {"spread": 0.1, "nearest": 0.2}, ["mode_collapse"]),
        (True, {"spread": 0.9, "nearest": 0.1}, ["mode_collapse"]),  # few modes, far apart
        (False, {"spread": 0.01, "nearest": 0.01}, []),  # the start
        (True, {"change": 1e-9}, ["generator_frozen"]),
        (True, {"change": float("nan")}, []),  # the first check
    ],
)
def test_what_is_found_in_measures(begun, changed, expected):
    assert list(findings(Measures(**vars(HEALTHY) | changed), begun)) == expected


def test_a_warning_gives_its_numbers():
    lost = Measures(**vars(HEALTHY) | {"real": 14.21, "fake": -13.84, "apart": 1.0, "gradient": 0.00021})
    text = findings(lost, True)["discriminator_won"]
    assert text == "D(real) 14.2, D(fake) -13.8, the generator's gradient fell to 0.0002 of what it was"


def test_distances_of_four_points():
    """Two pairs at a distance of 3 and 4, their sides 5 apart along another axis."""
    points = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 500.0], [4.0, 500.0]])
    mean, nearest = distances(points.view(4, 1, 1, 2)).tolist()
    diagonals = (4**2 + 500**2) ** 0.5 + (3**2 + 500**2) ** 0.5 + 500 + (1 + 500**2) ** 0.5
    assert mean == pytest.approx((3 + 4 + diagonals) / 6)
    assert nearest == pytest.approx((3 + 3 + 4 + 4) / 4)


class Modes(nn.Module):
    """Makes one of so many real images, slightly moved by its latent."""

    def __init__(self, count):
        super().__init__()
        self.images = nn.Parameter(REAL[:count].float() / 127.5 - 1)

    def forward(self, z):
        return self.images[torch.arange(len(z)) % len(self.images)] + 1e-3 * z.mean(1).view(-1, 1, 1, 1)


@pytest.mark.parametrize(("count", "alike"), [(1, True), (4, True), (16, False)])
def test_few_modes_are_seen_however_far_apart(count, alike):
    gan = gan_of()
    gan.generator = Modes(count)
    measures = Health(Tags(), EVERY, REAL).measure(gan, dict.fromkeys(("score/real", "score/fake"), torch.zeros(())))
    assert ("mode_collapse" in findings(measures, True)) == alike


def test_a_generator_that_stands_still_is_told_once_and_taken_back(caplog):
    gan, tags = gan_of(lr=0.0), Tags()
    step = gan.training_step

    def training_step(batch, batch_idx):
        if gan.global_step == 10:
            gan.trainer.optimizers[0].param_groups[0]["lr"] = 0.1
        return step(batch, batch_idx)

    gan.training_step = training_step
    seen = []
    set_tags = tags.set_tags
    tags.set_tags = lambda values: (seen.append(gan.global_step), set_tags(values))
    with caplog.at_level(logging.INFO, "gantry.training.callbacks.diagnostics"):
        fit(gan, Health(tags, EVERY, REAL), steps=14)
    text = "its weights changed by 0 of their size since the check before"
    assert [record.message for record in caplog.records if record.name == "gantry.training.callbacks.diagnostics"] == [
        f"Generator frozen since step 4: {text}",  # at step 2 there is nothing to compare with
        "Generator frozen: no longer, at step 12",
    ]
    assert seen == [6, 12]
    assert tags == {"gantry.warning.generator_frozen": f"from step 4 to 12: {text}"}


def test_images_that_stay_alike_are_a_collapse_only_after_the_start():
    tags = Tags()
    gan, health = gan_of(), Health(tags, EVERY, REAL)
    health.measure = lambda gan, outputs: Measures(**vars(HEALTHY) | {"spread": 0.01})
    for step in range(2, START + 1, 2):
        health.on_train_batch_end(SimpleNamespace(global_step=step), gan, {}, None, 0)
    assert not tags
    health.on_train_batch_end(SimpleNamespace(global_step=START + 2), gan, {}, None, 0)
    assert tags["gantry.warning.mode_collapse"].startswith(f"since step {START}: ")


def test_variety_that_is_lost_is_a_collapse_at_any_step():
    tags = Tags()
    gan, health = gan_of(), Health(tags, EVERY, REAL)
    for step, spread in ((2, 0.01), (4, 0.8), (6, 0.01), (8, 0.01)):
        health.measure = lambda gan, outputs, spread=spread: Measures(**vars(HEALTHY) | {"spread": spread})
        health.on_train_batch_end(SimpleNamespace(global_step=step), gan, {}, None, 0)
    assert tags["gantry.warning.mode_collapse"].startswith("since step 6: ")


def test_training_is_not_touched():
    """Not by BatchNorm's statistics, by a network's mode, or by noise that a network draws for itself."""
    weights = []
    for callbacks in ([], [Health(Tags(), EVERY, REAL)]):
        gan = gan_of(Noisy)
        gan.discriminator.layers[3].eval()  # the user's own doing
        torch.manual_seed(1)
        fit(gan, *callbacks)
        assert [module.training for module in gan.discriminator.layers[2:4]] == [True, False]
        weights.append(gan.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_nothing_waits_for_the_device_between_checks():
    """Tensors on the meta device have no values: reading one raises."""
    with torch.device("meta"):
        gan = gan_of()
        for weight in gan.generator.parameters():
            weight.grad = torch.zeros_like(weight)
        health = Health(Tags(), EVERY, REAL)
        health.peak = torch.zeros(())
    optimizer = torch.optim.SGD(gan.generator.parameters(), 0.1)
    trainer = SimpleNamespace(global_step=1, optimizers=[optimizer])
    health.on_before_optimizer_step(trainer, gan, optimizer)
    health.on_train_batch_end(trainer, gan, {}, None, 0)
    assert health.gradient.is_meta


def test_a_resumed_run_says_what_one_never_stopped_does(tmp_path):
    whole, parts = Tags(), Tags()
    fit(gan_of(lr=0.0), Health(whole, EVERY, REAL), steps=6)
    fit(gan_of(lr=0.0), Health(parts, EVERY, REAL), steps=5).save_checkpoint(tmp_path / "half.ckpt")
    assert not parts
    fit(gan_of(lr=0.0), Health(parts, EVERY, REAL), steps=6, start=5, checkpoint=tmp_path / "half.ckpt")
    assert parts == whole
    assert list(whole) == ["gantry.warning.generator_frozen"]


def test_a_rollback_takes_back_what_was_said_since():
    tags = Tags()
    health = Health(tags, EVERY, REAL)
    before = health.state_dict() | {"since": {}, "warned": {}}
    for step in (2, 4):
        health._report({"mode_collapse": "all alike"}, step)
    health.load_state_dict(before)
    assert tags["gantry.warning.mode_collapse"] == "from step 2 until training was rolled back: all alike"
    assert not health.warned
