"""Networks of pictures that are not square, and of more than 128 pixels; a step of every variant with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import NOISE, bare_trainer

from gantry.data.batches import Batches
from gantry.models.networks import dcgan, mlp, resnet
from gantry.models.networks.blocks import UnsupportedError, doublings, start_of
from gantry.training.model import build_model
from gantry.training.rules import SIDES

PAIRS = {"dcgan": (dcgan, {"width": 4}), "mlp": (mlp, {}), "resnet": (resnet, {"width": 4})}
VARIANTS = ("vanilla", "dcgan", "lsgan", "wgan", "wgan_gp", "sngan", "r3gan")


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("shape", [(3, 48, 64), (1, 64, 48), (3, 8, 32), (1, 12, 100), (3, 144, 256)])
def test_networks_of_pictures_that_are_not_square(pair, shape):
    module, options = PAIRS[pair]
    if pair == "mlp" and max(shape) > 128:
        pytest.skip("its dense layers would fill gigabytes")
    with torch.no_grad():
        images = module.Generator(10, shape, **options)(torch.randn(2, 10))
        logits = module.Discriminator(shape, **options)(images)
    assert images.shape == (2, *shape)
    assert logits.shape == (2,)


def test_the_side_that_halves_less_often_decides_the_depth():
    assert start_of((3, 48, 64)) == ((6, 8), 3)
    assert start_of((3, 64, 48)) == ((8, 6), 3)
    assert start_of((1, 8, 128)) == ((2, 32), 2)
    assert start_of((3, 240, 320)) == ((15, 20), 4)


def test_above_128_pixels_the_depth_follows_from_the_size():
    assert [doublings(size) for size in (144, 192, 256, 320, 384, 512)] == [
        (9, 4), (6, 5), (4, 6), (5, 6), (6, 6), (4, 7),
    ]  # fmt: skip
    for size in range(144, 513, 16):
        start, count = doublings(size)
        assert start * 2**count == size
        assert 4 <= start < 32
        assert count >= 4


def test_the_check_and_the_networks_allow_the_same_sides():
    def allowed(size):
        try:
            doublings(size)
        except UnsupportedError:
            return False
        return True

    assert [size for size in range(600) if allowed(size)] == SIDES


def test_channels_do_not_grow_beyond_those_of_128_pixels():
    with torch.device("meta"):
        large, small = (dcgan.Discriminator((3, size, size), 64) for size in (512, 128))
        wide = [
            max(layer.out_channels for layer in n.modules() if isinstance(layer, torch.nn.Conv2d))
            for n in (large, small)
        ]
    assert wide == [1024, 1024]
    assert [resnet.channels_at(256, side) for side in (8, 128, 144, 256, 272, 512)] == [256, 256, 128, 128, 64, 64]


@pytest.mark.parametrize("network", ["mlp", "dcgan", "resnet"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_with_every_network(config, variant, network):
    widths = [] if network == "mlp" else ["model.generator.width=4", "model.discriminator.width=4"]
    norm = [] if network != "mlp" or variant in ("vanilla", "dcgan", "lsgan") else ["model.discriminator.norm=none"]
    data = replace(NOISE, images=np.random.default_rng(0).integers(0, 256, (50, 3, 12, 16), np.uint8))
    cfg = config(
        f"model={variant}", f"model/network={network}", *widths, *norm, "batch_size=4", "steps=2", "model.n_critic=1"
    )
    gan, exported = build_model(cfg, data)
    before = [weight.clone() for weight in gan.parameters()]
    bare_trainer(cfg.steps, precision="32-true", devices=1).fit(gan, Batches(data, 4, gan.real_batches, 0))
    assert exported["image_shape"] == [3, 12, 16]
    assert all(weight.isfinite().all() for weight in gan.parameters())
    assert any(not torch.equal(weight, old) for weight, old in zip(gan.parameters(), before, strict=True))
