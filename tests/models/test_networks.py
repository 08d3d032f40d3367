"""Every pair of networks at every kind of size, channel count and normalisation."""

from typing import get_args

import pytest
import torch
from torch import nn

from gantry.models.networks import dcgan, mlp, resnet
from gantry.models.networks.blocks import (
    DiscriminatorNorm,
    FromVector,
    GeneratorNorm,
    ToVector,
    UnsupportedError,
    doublings,
)

PAIRS = {"dcgan": (dcgan, {"width": 4}), "mlp": (mlp, {}), "resnet": (resnet, {"width": 4})}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 12), (1, 16), (1, 28), (3, 32), (2, 36), (3, 64), (3, 100)])
def test_shapes(pair, channels, size):
    module, options = PAIRS[pair]
    shape = (channels, size, size)
    with torch.no_grad():
        images = module.Generator(10, shape, **options)(torch.randn(2, 10))
        logits = module.Discriminator(shape, **options)(images)
    assert images.shape == (2, *shape)
    assert images.abs().max() <= 1
    assert logits.shape == (2,)


def test_every_multiple_of_four_up_to_128_has_a_start_to_double():
    for size in range(8, 129, 4):
        start, count = doublings(size)
        assert start * 2**count == size
        assert 2 <= start < 32
        assert count >= 2
        assert start >= 4 or size < 32
    assert [doublings(size) for size in (8, 16, 28, 32, 64, 128)] == [(2, 2), (2, 3), (7, 2), (4, 3), (4, 4), (4, 5)]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("size", [4, 30, 132])
def test_impossible_sizes_are_refused(pair, size):
    with pytest.raises(UnsupportedError, match="multiple of 4"):
        PAIRS[pair][0].Generator(10, (1, size, size))


@pytest.mark.parametrize("module", [dcgan, resnet])
@pytest.mark.parametrize("norm", get_args(DiscriminatorNorm))
def test_normalisations(module, norm):
    kinds = {"batch": nn.BatchNorm2d, "layer": nn.GroupNorm, "instance": nn.InstanceNorm2d}
    networks = [module.Discriminator((1, 16, 16), 4, norm)]
    if norm in get_args(GeneratorNorm):
        networks.append(module.Generator(10, (1, 16, 16), 4, norm))
    for network in networks:
        used = {kind for kind in kinds.values() if any(isinstance(m, kind) for m in network.modules())}
        assert used == ({kinds[norm]} if norm in kinds else set())


def test_spectral_normalisation_bounds_every_layer():
    network = dcgan.Discriminator((1, 16, 16), 8, "spectral")
    with torch.no_grad():
        for _ in range(100):  # one power iteration a forward
            network(torch.randn(2, 1, 16, 16))
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) == 4
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


def test_dcgan_starts_as_the_paper_says():
    network = dcgan.Generator(100, (3, 64, 64), 32)
    weights = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.ConvTranspose2d)])
    gains = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
    assert weights.mean().item() == pytest.approx(0, abs=1e-3)
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert gains.mean().item() == pytest.approx(1, abs=0.01)
    assert gains.std().item() == pytest.approx(0.02, rel=0.2)


def test_the_articles_generator_at_mnist_size():
    sizes = [m.out_features for m in mlp.Generator(100, (1, 28, 28)).modules() if isinstance(m, nn.Linear)]
    assert sizes == [128, 256, 512, 1024, 7 * 7 * 256]
    sizes = [m.out_features for m in mlp.Discriminator((1, 28, 28)).modules() if isinstance(m, nn.Linear)]
    assert sizes == [1024, 512, 256, 1]


@pytest.mark.parametrize("pair", PAIRS)
def test_logits_are_not_squashed(pair):
    module, options = PAIRS[pair]
    network = module.Discriminator((1, 16, 16), norm="none", **options)
    with torch.no_grad():
        assert network(1e4 * torch.rand(8, 1, 16, 16)).abs().max() > 1


@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_that_are_matrix_products_give_what_convolutions_give(bias):
    up, down = FromVector(5, 6, 4, bias=bias), ToVector(6, 3, 4, bias=bias)
    for layer, plain, x in (
        (up, nn.ConvTranspose2d(5, 6, 4, bias=bias), torch.randn(2, 5, 1, 1)),
        (down, nn.Conv2d(6, 3, 4, bias=bias), torch.randn(2, 6, 4, 4)),
    ):
        plain.load_state_dict(layer.state_dict())
        expected, result = plain(x), layer(x)
        assert result.shape == expected.shape
        assert torch.allclose(result, expected, atol=1e-5)
