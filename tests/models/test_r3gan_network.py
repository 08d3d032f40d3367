"""R3GAN's networks: the official number of weights, shapes, the filter, how they start, derivatives, export."""

import math

import numpy as np
import pytest
import torch
from network_checks import (
    assert_a_penalty_reaches_every_weight,
    assert_generators_export_with_any_batch,
    assert_the_penalty_has_the_slope_of_finite_differences,
    count,
)
from scipy.signal import upfirdn
from torch import nn

from gantry.models.networks import r3gan
from gantry.models.networks.blocks import UnsupportedError
from gantry.models.networks.resample import Blur, Downsample, Upsample

CIFAR = (3, 32, 32)
CLASSES = 10


def randomised(network, scale=0.1):
    """The network with noise on all weights, since the last convolution of each block starts at zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(scale * torch.randn_like(weight))
    return network


def test_the_weights_are_as_many_as_the_official_codes():
    with torch.device("meta"):
        assert count(r3gan.Generator(64, CIFAR)) == 20_732_160
        assert count(r3gan.Discriminator(CIFAR)) == 20_683_776
        assert count(r3gan.ConditionalGenerator(64, CIFAR, CLASSES)) == 20_781_952
        assert count(r3gan.ConditionalDiscriminator(CIFAR, CLASSES)) == 21_280_512


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 48, 64)])
def test_shapes(shape):
    z, labels = torch.randn(2, 5), torch.tensor([2, 0])
    with torch.no_grad():
        images = randomised(r3gan.Generator(5, shape, width=8))(z)
        assert images.shape == (2, *shape)
        assert randomised(r3gan.Discriminator(shape, width=8))(images).shape == (2,)
        images = randomised(r3gan.ConditionalGenerator(5, shape, 3, width=8))(z, labels)
        assert images.shape == (2, *shape)
        assert randomised(r3gan.ConditionalDiscriminator(shape, 3, width=8))(images, labels).shape == (2,)


def filtered(x, taps, first, last, up=1, down=1):
    """Both axes of maps by scipy's definition: zeros between the pixels, the filter, each `down`-th pixel."""
    for axis in (-2, -1):
        x = upfirdn(np.array(taps), x, up, axis=axis)
        x = np.take(x, range(first, last(x.shape[axis]), down), axis)
    return x


def test_the_resamplers_are_the_filter_1_3_3_1():
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 10))
    taps, given = np.array([1, 3, 3, 1]), torch.from_numpy(x).float()
    for module, expected in (
        (Upsample(), filtered(x, taps / 4, up=2, first=1, last=lambda size: size - 1)),
        (Downsample(), filtered(x, taps / 8, down=2, first=2, last=lambda size: size - 1)),
        (Blur(padding=1), filtered(x, taps / 8, first=2, last=lambda size: size - 2)),
    ):
        made = module(given)
        assert made.shape[2:] == tuple(expected.shape[2:])
        assert np.allclose(made.numpy(), expected, atol=1e-5)


def test_a_doubled_map_is_linear_between_pixels():
    doubled = Upsample()(torch.arange(4.0).expand(1, 1, 4, 4))[0, 0, 3]
    assert torch.allclose(doubled[1:-1], torch.tensor([0.25, 0.75, 1.25, 1.75, 2.25, 2.75]))


def test_blocks_start_as_the_identity_with_the_gain_of_fixup():
    block = r3gan.Block(width=256, expansion=2, cardinality=32, depth=8)
    x = torch.randn(2, 256, 4, 4)
    assert torch.equal(block(x), x)
    gain = math.sqrt(2 / 1.04) / 8**0.25
    for layer, fan_in in ((block.widen, 256), (block.grouped, 16 * 9)):
        assert layer.weight.std().item() == pytest.approx(gain / math.sqrt(fan_in), rel=0.02)
        assert not layer.bias.any()


def test_how_the_other_weights_start():
    generator, discriminator = (
        r3gan.ConditionalGenerator(64, CIFAR, CLASSES, width=512),
        r3gan.ConditionalDiscriminator(CIFAR, CLASSES, width=512),
    )
    for weight, deviation in (
        (generator.network.basis, 1),
        (generator.network.weights.weight, 128**-0.5),
        (generator.embedding.weight, CLASSES**-0.5),
        (discriminator.trunk.basis, 1 / 4),
        (discriminator.trunk.weights.weight, 512**-0.5),
        (discriminator.embedding.weight, (512 * CLASSES) ** -0.5),
        (discriminator.trunk.image.weight, 3**-0.5),
    ):
        assert weight.std().item() == pytest.approx(deviation, rel=0.08)


def test_a_width_cardinality_and_number_of_blocks_for_each_stage():
    generator = r3gan.Generator(4, (3, 32, 32), width=[32, 32, 16, 16], cardinality=[4, 2, 2, 1], blocks=[1, 2, 1, 1])
    blocks = [layer for layer in generator.layers if isinstance(layer, r3gan.Block)]
    assert [block.narrow.out_channels for block in blocks] == [32, 32, 32, 16, 16]
    assert [block.grouped.groups for block in blocks] == [4, 2, 2, 2, 1]
    between = [layer for layer in generator.layers if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in between] == [(32, 16)]
    discriminator = r3gan.Discriminator((3, 32, 32), [32, 32, 16, 16], [4, 2, 2, 1], blocks=[1, 2, 1, 1])
    blocks = [layer for layer in discriminator.trunk.layers if isinstance(layer, r3gan.Block)]
    assert [block.grouped.groups for block in blocks] == [1, 2, 2, 2, 4]


def test_groups_have_16_channels_where_the_number_allows_it():
    assert [r3gan.most_groups(channels) for channels in (1536, 64, 40, 16, 8)] == [96, 4, 2, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": [8, 8]}, r"width: \[8, 8\] has 2 numbers, but images of this size take 4 stages"),
        ({"width": 8, "blocks": [1, 1, 1]}, "blocks: .* take 4 stages; give one number for all, or 4"),
        ({"width": 8, "cardinality": 3}, "cardinality: 3 groups do not divide width \\* expansion = 8 \\* 2 channels"),
    ],
)
def test_wrong_numbers_are_refused(arguments, message):
    with pytest.raises(UnsupportedError, match=message):
        r3gan.Generator(4, CIFAR, **arguments)
    with pytest.raises(UnsupportedError, match=message):
        r3gan.Discriminator(CIFAR, **arguments)


def test_a_mixture_of_classes_that_is_one_class_gives_its_images_and_logits():
    z, labels = torch.randn(3, 4), torch.tensor([2, 0, 1])
    weights = nn.functional.one_hot(labels, 3).float()
    generator = randomised(r3gan.ConditionalGenerator(4, (1, 8, 8), 3, width=8))
    discriminator = randomised(r3gan.ConditionalDiscriminator((1, 8, 8), 3, width=8))
    images = generator(z, labels)
    assert torch.allclose(generator(z, weights), images, atol=1e-5)
    assert torch.allclose(discriminator(images, weights), discriminator(images, labels), atol=1e-5)
    assert not torch.allclose(generator(z, labels.roll(1)), images, atol=1e-2)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_penalty_on_the_gradient_can_be_differentiated(conditional):
    images, labels = torch.randn(3, 1, 8, 8), torch.tensor([2, 0, 1])
    if conditional:
        network = randomised(r3gan.ConditionalDiscriminator((1, 8, 8), 3, width=8))
    else:
        network = randomised(r3gan.Discriminator((1, 8, 8), width=8))
    assert_a_penalty_reaches_every_weight(network, images, *[labels] * conditional)


def test_the_derivative_of_the_penalty_is_that_of_finite_differences():
    torch.manual_seed(0)
    network = randomised(r3gan.Discriminator((1, 8, 8), width=8), 0.3).double()
    assert_the_penalty_has_the_slope_of_finite_differences(
        network, network.trunk.image.weight, torch.randn(2, 1, 8, 8).double()
    )


def test_the_generators_export_with_any_batch():
    plain = randomised(r3gan.Generator(4, (1, 8, 8), width=8)).eval()
    conditional = randomised(r3gan.ConditionalGenerator(4, (1, 8, 8), 3, width=8)).eval()
    assert_generators_export_with_any_batch(plain, conditional)


def test_in_bfloat16_without_values_they_give_shapes_which_the_count_of_memory_uses():
    with torch.device("meta"):
        z, labels = torch.empty(4, 64, dtype=torch.bfloat16), torch.empty(4, dtype=torch.int64)
        images = r3gan.ConditionalGenerator(64, CIFAR, CLASSES).bfloat16()(z, labels)
        logits = r3gan.ConditionalDiscriminator(CIFAR, CLASSES).bfloat16()(images, labels)
    assert (images.shape, logits.shape) == ((4, *CIFAR), (4,))
    assert images.dtype == logits.dtype == torch.bfloat16
