"""Projection: a generator's own images are found again, and damaged ones are filled in with what it knows."""

import pytest
import torch
from torch import nn

from gantry.core.errors import UserError
from gantry.data.images import quantise
from gantry.generation.latent import projection
from gantry.generation.latent.projection import project

Z_DIM, SIZE = 8, 6


@pytest.fixture
def network():
    """Smooth images, each determined by a part of it."""
    made = nn.Sequential(
        nn.Linear(Z_DIM, 32), nn.Tanh(), nn.Linear(32, 2 * SIZE**2), nn.Tanh(), nn.Unflatten(1, (2, SIZE, SIZE))
    )
    nn.init.normal_(made[2].weight, std=0.2)  # images that use their range
    return made.eval().requires_grad_(False)


@pytest.fixture
def images(network):
    return quantise(network(torch.randn(4, Z_DIM)))


@pytest.fixture
def mask():
    """The right half is damaged."""
    damaged = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
    damaged[..., SIZE // 2 :] = True
    return damaged


def apart(a, b):
    """The root mean squared difference of each pair of images, in grey levels."""
    return (a.float() - b.float()).square().flatten(1).mean(1).sqrt()


def test_a_generators_own_images_are_found_again(network, images):
    found = project(network, Z_DIM, images, steps=100, starts=4)
    assert found.repaired is None
    assert (found.errors < 3).all()
    assert torch.allclose(found.errors, apart(found.images, images))
    assert torch.equal(quantise(network(found.latents)), found.images)


def test_a_damaged_half_is_filled_in_and_the_other_is_kept(network, images, mask):
    damaged = torch.where(mask, 255, images)
    found = project(network, Z_DIM, damaged, mask, steps=100, starts=4)
    assert (apart(found.repaired, images) < 8).all()
    assert torch.equal(found.repaired[..., : SIZE // 2], images[..., : SIZE // 2])
    assert torch.equal(found.repaired[..., SIZE // 2 :], found.images[..., SIZE // 2 :])
    known = slice(0, SIZE // 2)
    assert torch.allclose(found.errors, apart(found.images[..., known], images[..., known]))


def test_what_stands_where_the_image_is_damaged_makes_no_difference(network, images, mask):
    black, white = (
        project(network, Z_DIM, torch.where(mask, value, images), mask, steps=20, starts=2) for value in (0, 255)
    )
    assert torch.equal(black.latents, white.latents)


def test_each_image_may_have_a_mask_of_its_own(network, images, mask):
    masks = torch.cat([mask, ~mask, mask, ~mask])
    found = project(network, Z_DIM, images, masks, steps=20, starts=2)
    for number in range(4):
        alone = project(network, Z_DIM, images[[number]], masks[[number]], steps=20, starts=2)
        assert torch.allclose(found.latents[[number]], alone.latents, atol=1e-3)


def test_the_same_seed_finds_the_same_whatever_the_global_generator_does(network, images):
    found = project(network, Z_DIM, images, seed=1, steps=10, starts=2)
    torch.manual_seed(9)
    assert torch.equal(found.latents, project(network, Z_DIM, images, seed=1, steps=10, starts=2).latents)
    assert not torch.equal(found.latents, project(network, Z_DIM, images, seed=2, steps=10, starts=2).latents)


def test_little_memory_changes_nothing_but_the_rounding(network, images, mask, monkeypatch):
    found = project(network, Z_DIM, images, mask, steps=20, starts=2)
    monkeypatch.setattr(projection, "AT_ONCE", 300)
    assert torch.allclose(project(network, Z_DIM, images, mask, steps=20, starts=2).latents, found.latents, atol=1e-3)


def test_progress_is_told_up_to_the_end(network, images):
    told = []
    project(network, Z_DIM, images, steps=10, starts=3, progress=told.append)
    assert told == sorted(told)
    assert len(told) == 10
    assert told[-1] == 1


class Rugged(nn.Module):
    """Images in which an error has many local minima."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(Z_DIM, 2 * SIZE**2), requires_grad=False)

    def forward(self, z):
        return torch.sin(z @ self.weight).view(-1, 2, SIZE, SIZE)


def test_the_best_of_several_starts_is_chosen():
    network = Rugged()
    images = quantise(network(torch.randn(8, Z_DIM)))
    alone, best = (project(network, Z_DIM, images, steps=100, starts=starts).errors for starts in (1, 8))
    assert (best < 3).sum() > (alone < 3).sum()


def test_it_works_where_gradients_are_off(network, images):
    with torch.no_grad():
        found = project(network, Z_DIM, images, steps=100, starts=4)
    assert (found.errors < 3).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(target=torch.zeros(1, 2, 5, 5, dtype=torch.uint8)), r"uint8, \(N, 2, 6, 6\).*not uint8, \(1, 2, 5, 5\)"),
        (dict(target=torch.zeros(0, 2, 6, 6, dtype=torch.uint8)), "not uint8, .0, 2"),
        (dict(target=torch.zeros(1, 2, 6, 6)), "not float32"),
        (dict(mask=torch.ones(1, 1, 5, 5, dtype=torch.bool)), r"bool, .*not bool, \(1, 1, 5, 5\)"),
        (dict(mask=torch.ones(3, 1, 6, 6, dtype=torch.bool)), r"not bool, \(3, 1, 6, 6\)"),
        (dict(mask=torch.ones(1, 1, 6, 6)), "not float32"),
        (dict(mask=torch.zeros(1, 1, 6, 6, dtype=torch.bool)), "mask number 0 is empty"),
        (dict(mask=torch.ones(1, 1, 6, 6, dtype=torch.bool)), "mask number 0 is full"),
        (dict(steps=4), "at least 5 steps"),
        (dict(starts=0), "1 to 2048 starts"),
    ],
)
def test_what_cannot_be_projected_is_refused(network, images, change, said):
    arguments = dict(target=images, mask=None, steps=10, starts=2) | change
    with pytest.raises(UserError, match=said):
        project(network, Z_DIM, **arguments)


class WithEncoder(nn.Module):
    """A linear generator whose encoder is its inverse, and which counts the images that it makes."""

    def __init__(self):
        super().__init__()
        matrix = torch.linalg.qr(torch.randn(Z_DIM, Z_DIM))[0] * 0.3
        self.matrix, self.made = nn.Parameter(matrix, requires_grad=False), 0

    def forward(self, z):
        return self.decode(self.code(z))

    def code(self, z):
        return z / 2

    def decode(self, codes):
        self.made += len(codes)
        return (codes @ self.matrix).view(-1, 1, 2, Z_DIM // 2)

    def encode(self, images):
        return images.flatten(1) @ torch.linalg.inv(self.matrix)

    def hidden(self, images):
        return images.flatten(1)

    def latent(self, codes):
        return 2 * codes


def test_an_encoder_gives_the_one_start_and_with_a_mask_none():
    network = WithEncoder()
    images = quantise(network(torch.randn(3, Z_DIM)))
    made = {}
    for name, options in {
        "code": {},
        "pool": {"encoder": False},
        "one of the pool": {"encoder": False, "starts": 1},
    }.items():
        network.made = 0
        errors = project(network, Z_DIM, images, steps=5, **options).errors
        made[name] = (network.made, errors)
    assert made["code"][0] < made["pool"][0] - 40  # a step of the other 15 starts of each image
    assert (made["code"][1] <= made["one of the pool"][1]).all()
    assert (made["code"][1] < 8).all()
    hole = torch.zeros(1, 1, 2, Z_DIM // 2, dtype=torch.bool)
    hole[..., 0] = True
    masked = [project(network, Z_DIM, images, hole, steps=5, encoder=encoder).latents for encoder in (True, False)]
    assert torch.equal(*masked)


def test_a_code_that_is_further_off_than_a_sample_is_no_start():
    network = WithEncoder()
    network.encode = lambda images: torch.full((len(images), Z_DIM), 30.0)
    images = quantise(network(torch.randn(3, Z_DIM)))
    found, one = (
        project(network, Z_DIM, images, steps=5, **how).latents for how in ({}, {"encoder": False, "starts": 1})
    )
    assert torch.equal(found, one)
