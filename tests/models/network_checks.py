"""What any network is held to: its weights counted, their gradients, derivatives of a penalty, programs."""

import pytest
import torch

from gantry.models.penalties import squared_gradient_norm


def count(network):
    """How many numbers its weights are."""
    return sum(weight.numel() for weight in network.parameters())


def assert_every_weight_has_a_gradient(network):
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name


def assert_a_penalty_reaches_every_weight(network, images, *labels):
    """The mean squared gradient at the images, with the logits, has a derivative by each weight."""
    squares = squared_gradient_norm(lambda x: network(x, *labels), images)
    assert (squares > 0).all()
    (squares.mean() + network(images, *labels).sum()).backward()
    assert_every_weight_has_a_gradient(network)


def assert_the_penalty_has_the_slope_of_finite_differences(network, weight, images, step=1e-6):
    """By the first number of a weight; all in float64."""

    def penalty():
        given = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(given).sum(), given, create_graph=True)
        return gradient.square().sum()

    (slope,) = torch.autograd.grad(penalty(), weight)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0] += sign * step
        values.append(penalty().item())
        with torch.no_grad():
            weight[0] -= sign * step
    assert slope[0].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


def assert_generators_export_with_any_batch(plain, conditional, z_dim=4):
    """As programs of two images, of three classes or without, that make five."""
    dim = {0: torch.export.Dim("batch")}
    program = torch.export.export(plain, (torch.randn(2, z_dim),), dynamic_shapes=(dim,)).module()
    given = (torch.randn(2, z_dim), torch.tensor([0, 1]))
    labelled = torch.export.export(conditional, given, dynamic_shapes=(dim, dim)).module()
    z, labels = torch.randn(5, z_dim), torch.tensor([2, 0, 1, 1, 2])
    assert torch.allclose(program(z), plain(z), atol=1e-5)
    assert torch.allclose(labelled(z, labels), conditional(z, labels), atol=1e-5)
