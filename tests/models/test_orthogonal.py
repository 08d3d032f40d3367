"""The orthogonal term's gradient against the official formula."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gantry.models.networks import biggan
from gantry.models.orthogonal import Orthogonal, off_diagonal


def official(weight, strength):
    """2 (W W^T o (1 - I)) W times the strength, in the shape of W."""
    matrix = weight.flatten(1)
    return strength * (2 * ((matrix @ matrix.T) * (1 - torch.eye(len(matrix)))) @ matrix).view(weight.shape)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 2, 3, 3), (1, 4)])
def test_the_norm_outside_the_diagonal(shape):
    matrix = torch.randn(shape, dtype=torch.float64).flatten(1)
    products = matrix @ matrix.T
    expected = (products * (1 - torch.eye(len(matrix), dtype=torch.float64))).square().sum()
    assert torch.allclose(off_diagonal(matrix), expected)


def test_orthogonal_rows_of_any_length_cost_nothing():
    rows = torch.diag(torch.tensor([3.0, 0.5, 2.0]))
    assert off_diagonal(rows) == 0
    assert off_diagonal(torch.ones(2, 2)) == 8  # twice the inner product of 2, squared


def test_the_gradient_is_the_official_one():
    network = biggan.Generator(30, (3, 32, 32), 10, 4, shared_dim=6)
    term = Orthogonal(0.5)
    assert (term.players, term.needs_of("generator"), dict(term.draws)) == (("generator",), frozenset(), {})
    term(SimpleNamespace(network=network)).backward()
    for name, weight in network.named_parameters():
        if name == "shared.weight" or weight.ndim < 2:
            assert weight.grad is None, name
        else:
            expected = official(weight.detach(), 0.5)
            assert torch.allclose(weight.grad, expected, atol=1e-5 * max(1.0, float(expected.abs().max()))), name


def test_what_is_exempt():
    network = nn.ModuleDict({"shared": nn.Linear(2, 2), "shared_too": nn.Linear(2, 2)})
    Orthogonal()(SimpleNamespace(network=network)).backward()
    assert network["shared"].weight.grad is None
    assert network["shared_too"].weight.grad is not None
    both = Orthogonal(exempt=())(SimpleNamespace(network=network))
    assert both > Orthogonal()(SimpleNamespace(network=network))


def test_it_is_computed_in_float32():
    network = nn.Linear(64, 64)
    nn.init.constant_(network.weight, 40.0)
    with torch.autocast("cpu", torch.bfloat16):
        value = Orthogonal(1.0)(SimpleNamespace(network=network))
    assert value.item() == pytest.approx(0.5 * 64 * 63 * (64 * 1600) ** 2, rel=1e-5)


def test_on_the_meta_device():
    with torch.device("meta"):
        assert Orthogonal()(SimpleNamespace(network=nn.Linear(4, 4))).shape == ()
