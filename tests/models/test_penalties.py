"""Penalties on discriminators whose gradients are known."""

import pytest
import torch
from torch import nn

from gantry.models.penalties import R1, R2, GradientPenalty, WeightClipping, squared_gradient_norm


class Linear(nn.Module):
    """D(x) = <w, x>: its gradient is w everywhere."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images):
        return (images * self.weight).sum((1, 2, 3))


class Quadratic(nn.Module):
    """D(x) = |x|^2 / 2: its gradient is x."""

    def forward(self, images):
        return 0.5 * images.square().sum((1, 2, 3))


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 4, 3, 8, 8, generator=generator) * 2 - 1


def test_gradient_penalty_of_a_linear_critic(images):
    weight = torch.zeros(3, 8, 8)
    weight[0, 0, :2] = torch.tensor([3.0, 4.0])  # norm 5
    value = GradientPenalty(weight=10.0)(Linear(weight), *images, uniform=torch.rand(4))
    assert value.item() == pytest.approx(10 * (5 - 1) ** 2, rel=1e-6)


def test_gradient_penalty_is_taken_between_each_real_image_and_its_own_fake(images):
    real, fake = images
    uniform = torch.tensor([0.0, 1.0, 0.25, 0.5])
    mixed = uniform.view(-1, 1, 1, 1) * real + (1 - uniform.view(-1, 1, 1, 1)) * fake  # algorithm 1, line 5
    expected = 10 * (mixed.flatten(1).norm(dim=1) - 1).square().mean()
    value = GradientPenalty()(Quadratic(), real, fake, uniform)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_penalty_of_a_flat_critic_has_a_finite_gradient(images):
    critic = Linear(torch.zeros(3, 8, 8))
    GradientPenalty()(critic, *images, uniform=torch.rand(4)).backward()
    assert critic.weight.grad.isfinite().all()


def test_r1_and_r2(images):
    real, fake = images
    for penalty, where in ((R1, real), (R2, fake)):
        expected = 0.5 * 3.0 * where.flatten(1).square().sum(1).mean()
        assert penalty(gamma=3.0)(Quadratic(), real, fake, torch.rand(4)).item() == pytest.approx(
            expected.item(), rel=1e-6
        )


def critic_of(images: torch.Tensor) -> nn.Module:
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.LazyLinear(1))
    critic(images)
    return critic


def test_gradients_are_taken_in_float32_where_float16_would_overflow(images):
    critic = critic_of(images[0])
    with torch.autocast("cpu", torch.float16):
        inside = squared_gradient_norm(critic, images[0])
    assert inside.dtype == torch.float32
    assert torch.equal(inside, squared_gradient_norm(critic, images[0]))


def test_in_bfloat16_a_penalty_and_its_gradient_are_those_of_float32_up_to_rounding(images):
    critic = critic_of(images[0])
    found = []
    for half in (False, True):
        critic.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            penalty = GradientPenalty()(critic, *images, uniform=torch.full((4,), 0.5))
        penalty.backward()
        found.append((penalty, torch.cat([w.grad.flatten() for w in critic.parameters() if w.grad is not None])))
    (exact, exact_gradient), (rounded, gradient) = found
    assert rounded.dtype == torch.float32
    assert 0 < abs(rounded.item() / exact.item() - 1) < 0.01  # it is bfloat16, and it is close
    assert (gradient - exact_gradient).norm() < 0.05 * exact_gradient.norm()


def test_clipping_bounds_every_weight_and_leaves_the_small_ones():
    critic = nn.Linear(3, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[-1.0, 0.005, 1.0]]))
        critic.bias.fill_(0.5)
    WeightClipping(bound=0.01)(critic)
    assert torch.allclose(critic.weight, torch.tensor([[-0.01, 0.005, 0.01]]))
    assert critic.bias.item() == pytest.approx(0.01)
