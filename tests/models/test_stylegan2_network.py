"""StyleGAN2's networks: the official number of weights, shapes, closed forms of their layers, draws, derivatives."""

import math

import pytest
import torch
from network_checks import (
    assert_a_penalty_reaches_every_weight,
    assert_every_weight_has_a_gradient,
    assert_generators_export_with_any_batch,
    assert_the_penalty_has_the_slope_of_finite_differences,
    count,
)
from torch import nn

from gantry.models.networks import stylegan2
from gantry.models.networks.blocks import UnsupportedError
from gantry.models.networks.equalised import EqualisedConv2d, EqualisedLinear, normalised, with_deviation
from gantry.models.networks.modulated import StyledConv2d, ToImage
from gantry.models.networks.priors import standard_normal

CIFAR = (3, 32, 32)
DIGITS = (1, 8, 8)
CLASSES = 10
SMALL = {"w_dim": 8, "width": 8}


def generator(**options):
    """A small one whose noise shows."""
    torch.manual_seed(0)
    network = stylegan2.Generator(4, DIGITS, **SMALL, **options)
    with torch.no_grad():
        for convolution in network.synthesis.convolutions:
            if convolution.strength is not None:
                convolution.strength.fill_(0.5)
    return network


def test_the_weights_are_as_many_as_the_official_codes():
    with torch.device("meta"):
        assert count(stylegan2.Generator(512, CIFAR)) == 19_947_539
        assert count(stylegan2.Discriminator(CIFAR)) == 20_720_641
        assert count(stylegan2.ConditionalGenerator(512, CIFAR, CLASSES)) == 20_215_315
        assert count(stylegan2.ConditionalDiscriminator(CIFAR, CLASSES)) == 23_089_664


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 48, 64)])
def test_shapes(shape):
    z, labels = torch.randn(2, 5), torch.tensor([2, 0])
    with torch.no_grad():
        images = stylegan2.Generator(5, shape, **SMALL)(z)
        assert images.shape == (2, *shape)
        assert stylegan2.Discriminator(shape, width=8)(images).shape == (2,)
        images = stylegan2.ConditionalGenerator(5, shape, 3, **SMALL)(z, labels)
        assert images.shape == (2, *shape)
        assert stylegan2.ConditionalDiscriminator(shape, 3, width=8)(images, labels).shape == (2,)


def test_large_maps_have_fewer_channels():
    assert [stylegan2.channels_at(512, side) for side in (4, 64, 128, 512)] == [512, 512, 256, 64]
    assert stylegan2.channels_at(16, 512) == 16


def test_an_equalised_layer_is_scaled_as_it_is_used():
    layer = EqualisedLinear(3, 2, rate=0.01, bias=0.5)
    x = torch.randn(4, 3)
    expected = x @ layer.weight.T * 0.01 / math.sqrt(3) + 0.01 * 0.5
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert EqualisedLinear(300, 300, rate=0.01).weight.std().item() == pytest.approx(100, rel=0.02)
    convolution = EqualisedConv2d(64, 64, 3)
    assert convolution.weight.std().item() == pytest.approx(1, rel=0.02)
    x = torch.randn(1, 64, 3, 3)
    linear = (convolution.weight * x).sum((1, 2, 3)) / math.sqrt(64 * 9)  # of the pixel in the middle
    expected = math.sqrt(2) * torch.where(linear > 0, linear, 0.2 * linear)
    assert torch.allclose(convolution(x)[0, :, 1, 1], expected, atol=1e-5)


def test_demodulated_weights_have_unit_norm():
    convolution = StyledConv2d(6, 5, 4, (8, 8))
    styles = torch.randn(3, 6)
    weights = convolution.scale * convolution.weight * styles[:, None, :, None, None]
    weights = weights * convolution.demodulation(styles)[:, :, None, None, None]
    assert torch.allclose(weights.square().sum((2, 3, 4)), torch.ones(3, 5), atol=1e-4)


@pytest.mark.parametrize("up", [False, True])
def test_a_styled_convolution_is_one_of_each_images_own_weights(up):
    torch.manual_seed(0)
    convolution = StyledConv2d(6, 5, 4, (8, 8) if not up else (16, 16), up=up)
    nn.init.normal_(convolution.bias)
    x, w, noise = torch.randn(2, 6, 8, 8), torch.randn(2, 4), torch.randn(2, 1, *(8, 8) if not up else (16, 16))
    with torch.no_grad():
        convolution.strength.fill_(0.7)
        styles = convolution.affine(w)
        assert torch.allclose(styles, w @ convolution.affine.weight.T / 2 + 1, atol=1e-6)
        made = []
        for image, style in zip(x, styles, strict=True):
            weight = convolution.weight * style[None, :, None, None]
            weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt()
            if up:
                spread = torch.zeros(6, 19, 19)  # zeros between the pixels, and two around them
                spread[:, 2:17:2, 2:17:2] = image
                h = nn.functional.conv2d(spread, weight.flip(2, 3))
                taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
                kernel = torch.outer(taps, taps).expand(5, 1, 4, 4)
                made.append(nn.functional.conv2d(h, kernel, padding=1, groups=5))
            else:
                made.append(nn.functional.conv2d(image, weight, padding=1))
        h = torch.stack(made) + 0.7 * noise + convolution.bias[:, None, None]
        expected = math.sqrt(2) * torch.where(h > 0, h, 0.2 * h)
        assert torch.allclose(convolution(x, w, noise), expected, atol=1e-4)


def test_to_image_scales_by_the_style_alone():
    layer = ToImage(6, 3, 4)
    x, w = torch.randn(2, 6, 5, 5), torch.randn(2, 4)
    weights = layer.weight[:, :, 0, 0] * layer.affine(w)[:, None] / math.sqrt(6)
    assert torch.allclose(layer(x, w), torch.einsum("boi,bihw->bohw", weights, x), atol=1e-5)


@pytest.mark.parametrize(("batch", "groups"), [(4, 1), (32, 1), (64, 2), (48, 2), (37, 37)])
def test_the_deviation_of_a_group_stands_in_a_further_channel(batch, groups):
    x = torch.randn(batch, 3, 2, 2)
    made = with_deviation(x, 32)
    assert torch.equal(made[:, :3], x)
    for group in range(groups):
        members = x[group::groups]
        deviation = ((members - members.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        assert torch.allclose(made[group::groups, 3], deviation.expand(batch // groups, 2, 2), atol=1e-5)


def test_a_constant_map_is_all_that_images_of_one_z_have_in_common_without_draws():
    network = generator()
    z = torch.randn(1, 4)
    assert torch.equal(network(z), network(z))
    draws = {"noise": torch.rand(2, network.draws["noise"])}
    first, second = network(z.expand(2, -1), draws)
    assert not torch.allclose(first, second, atol=1e-2)


def test_noise_of_the_draws_goes_to_the_layers_in_turn():
    network = generator()
    z = torch.randn(3, 4)
    constant = torch.cat([convolution.noise.flatten() for convolution in network.synthesis.convolutions])
    assert network.draws == {"noise": len(constant)} == {"noise": 2 * 2 + 2 * (4 * 4 + 8 * 8)}
    uniform = torch.special.ndtr(constant.double()).float().expand(3, -1)
    assert torch.allclose(network(z, {"noise": uniform}), network(z), atol=1e-3)


def test_the_noise_of_the_official_size_and_none():
    with torch.device("meta"):
        assert stylegan2.Generator(512, CIFAR).draws == {"noise": 4**2 + 2 * (8**2 + 16**2 + 32**2)}
        assert stylegan2.Generator(512, CIFAR, noise=False, mixing=0.9).draws == {"mixing": 514}
        assert stylegan2.ConditionalGenerator(512, CIFAR, CLASSES, noise=False).draws == {}
    network = generator(noise=False)
    assert torch.equal(network(torch.ones(1, 4), {}), network(torch.ones(1, 4)))


def test_normal_values_of_all_uniform_numbers_are_finite():
    uniform = torch.tensor([0.0, 2.0**-24, 0.25, 0.5, 0.75, 1 - 2.0**-24])
    values = standard_normal(uniform)
    assert values.isfinite().all()
    assert (values.diff() > 0).all()
    assert values[2].item() == pytest.approx(-0.674490, abs=1e-5)
    assert values[3] == 0


def test_each_image_mixes_styles_from_a_cutoff_of_its_own():
    network = generator(mixing=0.9, noise=False).eval()
    layers = network.synthesis.layers
    assert (layers, network.draws) == (6, {"mixing": 6})
    z, other = torch.randn(2, 4, 4).unbind(0)
    uniform = torch.rand(4, 6)
    uniform[:, 2:] = torch.special.ndtr(other)
    uniform[:, :2] = torch.tensor([[0.89, 0.0], [0.0, 0.3], [0.5, 0.99], [0.91, 0.3]])
    first, second = (network.mapping(normalised(each)) for each in (z, other))
    mixed = network(z, {"mixing": uniform})
    for image, cutoff in enumerate([1, 2, 5, layers]):  # the last is not mixed
        own = slice(image, image + 1)
        expected = network.synthesis([first[own]] * cutoff + [second[own]] * (layers - cutoff))
        assert torch.allclose(mixed[own], expected, atol=1e-4)


def test_cutoffs_lie_between_the_first_layer_and_the_last():
    network = generator(mixing=1.0, noise=False)
    w = torch.zeros(1, 8)
    cutoffs = set()
    for place in torch.linspace(0, 1 - 2**-24, 50):
        uniform = torch.full((1, 6), 0.9)
        uniform[0, :2] = torch.tensor([0.0, place.item()])
        mixed = network._mixed(w, None, uniform)
        cutoffs.add(sum(not style.any() for style in mixed))
    assert cutoffs == {1, 2, 3, 4, 5}


def test_the_average_of_w_moves_in_training_alone_and_is_that_of_all_shares():
    network = generator()
    z = torch.randn(8, 4)
    network.eval()(z)
    assert not network.w_average.any()
    network.train()(z)
    whole = network.w_average.clone()
    assert torch.allclose(whole, 0.005 * network.mapping(normalised(z)).mean(0), atol=1e-6)
    halves = []
    for half in z.chunk(2):
        network.w_average.zero_()
        network(half)
        halves.append(network.w_average.clone())
    assert torch.allclose(torch.stack(halves).mean(0), whole, atol=1e-6)


def test_psi_moves_w_to_its_average():
    network = generator().train()
    for _ in range(3):
        network(torch.randn(8, 4))
    network.eval()
    first, second = network(torch.randn(2, 4), psi=0.0)
    assert torch.allclose(first, second, atol=1e-5)
    z = torch.randn(2, 4)
    assert torch.equal(network(z, psi=1.0), network(z))
    assert not torch.allclose(network(z, psi=0.5), network(z), atol=1e-3)


def test_a_wrong_probability_is_refused():
    with pytest.raises(UnsupportedError, match=r"mixing: a probability from 0 to 1, not 1\.5"):
        stylegan2.Generator(4, DIGITS, mixing=1.5)


def test_a_mixture_of_classes_that_is_one_class_gives_its_images_and_logits():
    torch.manual_seed(0)
    z, labels = torch.randn(3, 4), torch.tensor([2, 0, 1])
    weights = nn.functional.one_hot(labels, 3).float()
    network = stylegan2.ConditionalGenerator(4, DIGITS, 3, **SMALL)
    discriminator = stylegan2.ConditionalDiscriminator(DIGITS, 3, width=8)
    images = network(z, labels)
    assert torch.equal(network(z, weights), images)
    assert torch.equal(discriminator(images, weights), discriminator(images, labels))
    assert not torch.allclose(network(z, labels.roll(1)), images, atol=1e-2)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_penalty_on_the_gradient_can_be_differentiated(conditional):
    torch.manual_seed(0)
    images, labels = torch.randn(4, *DIGITS), torch.tensor([2, 0, 1, 0])
    if conditional:
        network = stylegan2.ConditionalDiscriminator(DIGITS, 3, width=8)
    else:
        network = stylegan2.Discriminator(DIGITS, width=8)
    assert_a_penalty_reaches_every_weight(network, images, *[labels] * conditional)


def test_every_weight_of_the_generators_takes_a_gradient():
    torch.manual_seed(0)
    z, labels = torch.randn(3, 4), torch.tensor([2, 0, 1])
    network = stylegan2.ConditionalGenerator(4, DIGITS, 3, mixing=1.0, **SMALL)
    draws = {purpose: torch.rand(3, width) for purpose, width in network.draws.items()}
    network(z, labels, draws).square().sum().backward()
    assert_every_weight_has_a_gradient(network)


def test_the_derivative_of_the_penalty_is_that_of_finite_differences():
    torch.manual_seed(0)
    network = stylegan2.Discriminator(DIGITS, width=8).double()
    assert_the_penalty_has_the_slope_of_finite_differences(
        network, network.trunk.layers[0].weight, torch.randn(4, *DIGITS).double()
    )


def test_the_generators_export_with_any_batch():
    plain = generator().eval()
    conditional = stylegan2.ConditionalGenerator(4, DIGITS, 3, **SMALL).eval()
    assert_generators_export_with_any_batch(plain, conditional)


def test_in_bfloat16_without_values_they_give_shapes_which_the_count_of_memory_uses():
    with torch.device("meta"):
        network = stylegan2.ConditionalGenerator(512, CIFAR, CLASSES, mixing=0.9).bfloat16().train()
        z, labels = torch.empty(4, 512, dtype=torch.bfloat16), torch.empty(4, dtype=torch.int64)
        images = network(z, labels, {purpose: torch.empty(4, width) for purpose, width in network.draws.items()})
        logits = stylegan2.ConditionalDiscriminator(CIFAR, CLASSES).bfloat16()(images, labels)
    assert (images.shape, logits.shape) == ((4, *CIFAR), (4,))
    assert images.dtype == logits.dtype == torch.bfloat16
