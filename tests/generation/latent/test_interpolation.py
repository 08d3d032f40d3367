"""Walks through latent space: great circles between latents, and films that repeat without a jump."""

import math

import pytest
import torch

from gantry.core.errors import UserError
from gantry.generation.latent.interpolation import slerp, walk

X, Y = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_between_two_axes_the_path_is_a_quarter_of_a_circle(t):
    angle = t * math.pi / 2
    assert torch.allclose(slerp(X, Y, t), torch.tensor([math.cos(angle), math.sin(angle), 0.0]), atol=1e-7)


def test_of_equal_norms_it_is_shoemakes_formula():
    a, b = torch.randn(2, 50, 100, dtype=torch.float64)
    b *= a.norm(dim=1, keepdim=True) / b.norm(dim=1, keepdim=True)
    angle = torch.acos((a * b).sum(1, keepdim=True) / a.norm(dim=1, keepdim=True).square())
    expected = (torch.sin(0.7 * angle) * a + torch.sin(0.3 * angle) * b) / torch.sin(angle)
    assert torch.allclose(slerp(a, b, 0.3), expected)


def test_the_norm_goes_evenly_from_one_to_the_other_and_the_ends_are_the_latents():
    a, b = torch.randn(20, 64), 3 * torch.randn(20, 64)
    quarter = slerp(a, b, 0.25)
    assert torch.allclose(quarter.norm(dim=1), 0.75 * a.norm(dim=1) + 0.25 * b.norm(dim=1))
    assert torch.allclose(slerp(a, b, 0.0), a)
    assert torch.allclose(slerp(a, b, 1.0), b, atol=1e-6)


def test_each_of_a_batch_goes_its_own_share_of_the_way():
    path = slerp(X, Y, torch.tensor([[0.0], [0.5], [1.0]]))
    assert torch.allclose(path, torch.stack([X, (X + Y) / math.sqrt(2), Y]), atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 1 + 1e-7, 2.0])
def test_parallel_latents_are_joined_by_a_straight_line(scale):
    a = torch.randn(8)
    assert torch.allclose(slerp(a, a * scale, 0.5), a * (1 + scale) / 2, atol=1e-6)


@pytest.mark.parametrize("a", [X, torch.tensor([0.6, 0.0, -0.8]), torch.ones(5)])
def test_opposite_latents_are_joined_by_half_a_circle(a):
    path = slerp(a, -a, torch.linspace(0, 1, 9)[:, None])
    assert torch.allclose(path.norm(dim=1), a.norm().expand(9))
    assert torch.allclose(path[[0, 8]], torch.stack([a, -a]), atol=1e-6)
    steps = path.diff(dim=0).norm(dim=1)
    assert torch.allclose(steps, steps[0].expand(8))


def test_from_zero_which_has_no_direction_the_path_is_straight():
    assert torch.equal(slerp(torch.zeros(3), 2 * Y, 0.25), 0.5 * Y)
    assert torch.equal(slerp(torch.zeros(3), torch.zeros(3), 0.5), torch.zeros(3))


def test_latents_of_one_number_pass_through_zero():
    assert torch.allclose(slerp(torch.tensor([2.0]), torch.tensor([-2.0]), 0.5), torch.zeros(1), atol=1e-6)


def test_a_closed_walk_meets_every_latent_and_repeats_without_a_jump():
    keys = torch.randn(4, 16)
    film = walk(keys, 10)
    assert film.shape == (40, 16)
    assert torch.allclose(film[::10], keys, atol=1e-6)
    steps = (film - film.roll(-1, 0)).norm(dim=1)  # the last to the first among them
    assert steps[-1] < 1.01 * steps[:-1].max()


def test_an_open_walk_ends_on_the_last_latent():
    keys = torch.randn(3, 16)
    film = walk(keys, 5, closed=False)
    assert film.shape == (11, 16)
    assert torch.allclose(film[[0, 5, 10]], keys, atol=1e-6)


def test_walks_side_by_side_are_those_of_each_alone():
    keys = torch.randn(3, 6, 16)
    assert torch.equal(walk(keys, 4)[:, 2], walk(keys[:, 2], 4))


@pytest.mark.parametrize(("keys", "frames", "said"), [(1, 4, "at least 2"), (2, 0, "at least 1 frame")])
def test_a_walk_without_a_way_is_refused(keys, frames, said):
    with pytest.raises(UserError, match=said):
        walk(torch.randn(keys, 4), frames)
