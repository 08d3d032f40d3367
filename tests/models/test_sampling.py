"""Large images are generated a few at a time, and pictures of a run show them reduced."""

import pytest
import torch
from torch import nn

from gantry.data.grid import reduced
from gantry.generation.latent.directions import directions
from gantry.models import sampling
from gantry.models.networks.dcgan import Generator
from gantry.models.sampling import at_a_time, generate


@pytest.mark.parametrize(("side", "count"), [(64, 512), (128, 512), (144, 134), (256, 42), (512, 10)])
def test_only_images_of_more_than_128_pixels_are_computed_a_few_at_a_time(side, count):
    assert at_a_time(3 * side * side, 512) == count


def test_parts_give_the_same_images(monkeypatch):
    network, z, sizes = Generator(6, (1, 8, 12), width=4), torch.randn(20, 6), []
    whole = generate(network, z)
    monkeypatch.setattr(sampling, "LARGE", 0)
    monkeypatch.setattr(sampling, "AT_ONCE", 7 * 96)
    network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    assert (generate(network, z).int() - whole.int()).abs().max() <= 1
    assert sizes == [7, 7, 6]
    assert generate(network, z[:3]).shape == (3, 1, 8, 12)


def test_parts_give_the_same_directions(monkeypatch):
    network = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Unflatten(1, (1, 4, 4)))
    whole = directions(network, 6, 0, 3)
    monkeypatch.setattr(sampling, "LARGE", 0)
    monkeypatch.setattr(sampling, "AT_ONCE", 50 * 16)
    parts = directions(network, 6, 0, 3)
    assert torch.allclose(whole.vectors, parts.vectors, atol=1e-4)


def test_pictures_are_reduced_to_a_longer_side():
    images = torch.full((9, 3, 256, 512), 7, dtype=torch.uint8)
    assert reduced(images).shape == (9, 3, 64, 128)
    assert reduced(images, 256).shape == (9, 3, 128, 256)
    assert reduced(images).unique().tolist() == [7]
    small = images[..., :128, :100]
    assert reduced(small) is small
