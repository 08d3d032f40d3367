"""Self-attention against its formula, its gradients, and the map that it follows."""

import pytest
import torch

from gantry.models.networks import biggan, sagan
from gantry.models.networks.attention import SelfAttention, place


@pytest.fixture
def attention():
    torch.manual_seed(0)
    made = SelfAttention(16).double()
    made.gamma.data.fill_(0.7)
    return made


def pooled(values):
    """The largest of each 2x2 of a map (C, H, W), which may leave its last row and column out."""
    height, width = values.shape[1] // 2, values.shape[2] // 2
    return torch.stack(
        [values[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].amax((1, 2)) for i in range(height) for j in range(width)], 1
    )


@pytest.mark.parametrize(("height", "width"), [(4, 4), (6, 4), (7, 5)])
def test_the_formula(attention, height, width):
    x = torch.randn(2, 16, height, width, dtype=torch.float64)
    theta, phi, g, o = (getattr(attention, name).weight[:, :, 0, 0] for name in ("theta", "phi", "g", "o"))
    assert (theta.shape, phi.shape, g.shape, o.shape) == ((2, 16), (2, 16), (8, 16), (16, 8))
    result = attention(x)
    for image, made in zip(x, result, strict=True):
        keys, values = (pooled(torch.einsum("oc,chw->ohw", weight, image)) for weight in (phi, g))
        for i in range(height):
            for j in range(width):
                exponents = (theta @ image[:, i, j]) @ keys
                share = exponents.exp() / exponents.exp().sum()
                expected = image[:, i, j] + 0.7 * (o @ (values @ share))
                assert torch.allclose(made[:, i, j], expected)


def test_it_begins_as_the_identity_and_learns(attention):
    x = torch.randn(2, 16, 4, 4)
    fresh = SelfAttention(16)
    assert torch.equal(fresh(x), x)
    fresh(x).square().sum().backward()
    assert fresh.gamma.grad != 0


def test_first_and_second_derivatives(attention):
    x = torch.randn(1, 16, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, x)
    assert torch.autograd.gradgradcheck(attention, x)


def test_few_channels_still_have_one_key():
    assert SelfAttention(4).theta.out_channels == 1


def test_the_map_that_it_follows():
    assert place([4, 8, 16], 16) == 2
    assert place([16, 8, 8, 8], 8) == 1
    assert place([54, 108], 32) == 0
    assert place([8, 16], None) is None


@pytest.mark.parametrize(
    ("module", "size", "side"),
    [
        *((sagan, 8, 4), (sagan, 28, 14), (sagan, 32, 16), (sagan, 64, 32), (sagan, 128, 32)),
        *((biggan, 32, 16), (biggan, 64, 32), (biggan, 128, 64)),
    ],
)
def test_the_maps_of_the_official_codes(module, size, side):
    seen = []
    generator, discriminator = module.Generator(12, (3, size, size), 2, 2), module.Discriminator((3, size, size), 2, 2)
    for network in (generator, discriminator):
        network.attention.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[2:]))
    labels = torch.tensor([0, 1])
    with torch.no_grad():
        discriminator(generator(torch.randn(2, 12), labels), labels)
    assert seen == [(side, side), (side, side)]
