"""A batch taken in parts, each its own backward pass, against the same batch at once."""

import json
from contextlib import contextmanager

import pytest
import torch
from small import NOISE, bare_trainer, vector

from gantry.core.errors import UserError
from gantry.data.batches import Batches
from gantry.models.step import frozen
from gantry.training import run
from gantry.training.model import build_model

NO_BATCH_NORM = ["model.generator.norm=layer", "model.discriminator.norm=none"]
SGD = ["model.optimizer._target_=torch.optim.SGD", "~model.optimizer.betas", "model.optimizer.lr=1.0"]
SMALL = ["data.image_size=8", "model.generator.width=4", "model.discriminator.width=4"]


@pytest.fixture
def gan_in(config):
    """A GAN of a variant without BatchNorm, whose batch of 12 images is taken in so many parts."""

    def made(parts, variant, *overrides):
        size = [f"batch_size={12 // parts}", f"accumulate={parts}"]
        return build_model(config(f"model={variant}", *SMALL, *NO_BATCH_NORM, *size, *overrides), NOISE)[0]

    return made


def fit(gan, steps, batches=None):
    trainer = bare_trainer(steps)
    records = []
    step = gan.training_step
    gan.training_step = lambda *batch: (records.append(step(*batch)), records[-1])[1]
    trainer.fit(gan, batches or Batches(NOISE, gan.batch_size, gan.n_critic, gan.seed))
    return records


def backwards(gan, called):
    """Have `called()` run at each backward pass of the GAN."""
    original = gan.manual_backward
    gan.manual_backward = lambda loss: (called(), original(loss))


@pytest.mark.parametrize(
    ("variant", "overrides"),
    [
        ("dcgan", SGD),  # Adam would not notice a sum in the place of a mean
        ("dcgan", ["model.max_grad_norm=0.5", *SGD]),
        ("wgan", ["model.n_critic=3"]),
        ("wgan_gp", ["model.n_critic=2"]),
        ("r3gan", []),  # relativistic, R1 and R2
    ],
)
def test_parts_give_the_weights_and_the_record_of_the_whole(variant, overrides, gan_in):
    whole, parts = (gan_in(count, variant, *overrides) for count in (1, 4))
    initial = vector(whole)
    records = [fit(gan, 4) for gan in (whole, parts)]
    one, other = (vector(gan) for gan in (whole, parts))
    assert (one - other).norm() < 1e-6 * one.norm()
    assert (one - other).norm() < 1e-4 * (one - initial).norm()
    for one, other in zip(*records, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


def test_gradients_are_exchanged_at_the_last_part_only(gan_in, monkeypatch):
    """A strategy of several ranks is asked to hold back, under the name that Lightning gives it."""
    gan = gan_in(3, "wgan_gp", "model.n_critic=2")
    held_back, passes = [], []

    @contextmanager
    def block_backward_sync():
        held_back.append(True)
        yield
        held_back.pop()

    monkeypatch.setattr(
        "pytorch_lightning.strategies.SingleDeviceStrategy.block_backward_sync",
        lambda self: block_backward_sync(),
        raising=False,
    )
    backwards(gan, lambda: passes.append(not held_back))
    fit(gan, 2)
    assert passes == [False, False, True] * 3 * 2


def test_each_backward_pass_concerns_one_network_only(gan_in):
    """What lets each network exchange its own gradients, and no others."""
    gan = gan_in(2, "r3gan", "model.n_critic=2")
    gan.generator.layers[-2].bias.requires_grad_(False)  # the user's own doing, kept
    networks = {"generator": gan.generator, "discriminator": gan.discriminator}
    before = {name: weight.requires_grad for name, weight in gan.named_parameters()}
    passes = []
    backwards(
        gan,
        lambda: passes.append(
            [name for name, net in networks.items() if any(w.requires_grad for w in net.parameters())]
        ),
    )
    fit(gan, 1)
    assert passes == [["discriminator"]] * 4 + [["generator"]] * 2
    assert {name: weight.requires_grad for name, weight in gan.named_parameters()} == before


def test_a_failing_step_leaves_both_networks_trainable():
    network = torch.nn.Linear(2, 2)

    def fail():
        with frozen(network.parameters()):
            assert not any(weight.requires_grad for weight in network.parameters())
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert all(weight.requires_grad for weight in network.parameters())


def test_a_batch_that_has_no_such_parts_is_refused(gan_in):
    """Rather than one part weighing more than another."""
    gan = gan_in(4, "dcgan")
    with pytest.raises(RuntimeError, match="don't multiply up"):
        fit(gan, 1, Batches(NOISE, 10, 1, 0))


def test_a_run_counts_whole_batches(config, tmp_path):
    cfg = config("experiment=smoke", "batch_size=8", "accumulate=2", *SMALL)
    summary = run.train(cfg, tmp_path, {"variant": "dcgan", "dataset": "digits"})
    assert summary.images == 4 * 16
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [line["images_seen"] for line in lines if "images_seen" in line] == [32, 64]


def test_more_parts_than_there_are_images_are_refused(config, tmp_path):
    with pytest.raises(UserError, match=r"accumulate=15 .* 1797 images.* 14$"):
        run.train(config("accumulate=15"), tmp_path, {"variant": "dcgan", "dataset": "digits"})
