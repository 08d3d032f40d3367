"""Latent directions: those along which the image changes most."""

import pytest
import torch
from torch import nn

from gantry.core.errors import UserError
from gantry.generation.latent.directions import directions, plane

SINGULAR = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0])


class Linear(nn.Module):
    """Images A z, for A with known singular values and right singular vectors (the rows of `rows`)."""

    def __init__(self):
        super().__init__()
        self.rows = torch.linalg.qr(torch.randn(5, 5))[0]
        matrix = torch.linalg.qr(torch.randn(12, 5))[0] @ torch.diag(SINGULAR) @ self.rows
        self.matrix = nn.Parameter(matrix)

    def forward(self, z):
        return (z @ self.matrix.T).view(-1, 1, 3, 4)


def test_of_a_linear_generator_they_are_its_right_singular_vectors():
    network = Linear()
    found = directions(network, 5, seed=0, count=4)
    cosines = (found.vectors * network.rows[:4]).sum(1).abs()
    assert (cosines > 0.995).all()
    assert torch.allclose(found.shares, SINGULAR[:4].square() / SINGULAR.square().sum(), atol=0.02)


def test_they_are_orthonormal_and_follow_from_the_seed():
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Unflatten(1, (1, 4, 4)))
    found = directions(network, 6, seed=3, count=6)
    assert torch.allclose(found.vectors @ found.vectors.T, torch.eye(6), atol=1e-6)
    assert found.shares.sum() == pytest.approx(1)
    assert (found.shares.diff() <= 0).all()
    again = directions(network, 6, seed=3, count=2)
    assert torch.equal(again.vectors, found.vectors[:2])
    assert all(vector[vector.abs().argmax()] > 0 for vector in found.vectors)


@pytest.mark.parametrize("count", [0, 6])
def test_more_directions_than_there_are_are_refused(count):
    with pytest.raises(UserError, match="1 to 5"):
        directions(Linear(), 5, seed=0, count=count)


def test_a_generator_that_makes_one_image_has_none():
    network = Linear()
    nn.init.zeros_(network.matrix)
    with pytest.raises(UserError, match="do not depend on the latent"):
        directions(network, 5, seed=0, count=1)


def test_a_plane_grows_along_the_first_to_the_right_and_the_second_downwards():
    centre, first, second = torch.tensor([5.0, 5.0, 5.0]), torch.eye(3)[0], torch.eye(3)[1]
    grid = plane(centre, first, second, points=3, extent=2.0)
    assert grid.shape == (3, 3, 3)
    assert torch.equal(grid[1, 1], centre)
    assert torch.equal(grid[0, 2], torch.tensor([7.0, 3.0, 5.0]))
    assert torch.equal(grid[2, 0], torch.tensor([3.0, 7.0, 5.0]))
    assert torch.equal(plane(centre, first, second, points=1, extent=2.0)[0, 0], centre)


@pytest.mark.parametrize(
    ("points", "extent", "said"), [(0, 1.0, "1 point"), (3, 0.0, "extent"), (3, float("nan"), "extent")]
)
def test_a_grid_of_nothing_is_refused(points, extent, said):
    with pytest.raises(UserError, match=said):
        plane(torch.zeros(3), torch.eye(3)[0], torch.eye(3)[1], points, extent)
