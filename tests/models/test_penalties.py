"""Penalties on discriminators whose gradients are known."""

import pytest
import torch
from torch import nn

from gantry.models.penalties import (
    R1,
    R2,
    DivergencePenalty,
    GradientPenalty,
    LipschitzPenalty,
    WeightClipping,
    squared_gradient_norm,
)


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


def flat(value):
    """A linear critic whose gradient has one value, that at the first pixel."""
    weight = torch.zeros(3, 8, 8)
    weight[0, 0, 0] = value
    return Linear(weight)


@pytest.mark.parametrize(("length", "value", "gradient"), [(3.0, 5 * 4.0, 5 * 2 * 2.0), (0.5, 0.0, 0.0)])
def test_the_lipschitz_penalty_is_one_sided(length, value, gradient, images):
    critic = flat(length)
    found = LipschitzPenalty()(critic, *images, uniform=torch.rand(4))
    found.backward()
    assert found.item() == pytest.approx(value, rel=1e-6)
    assert critic.weight.grad[0, 0, 0].item() == pytest.approx(gradient, rel=1e-6)


@pytest.mark.parametrize(("power", "length"), [(6.0, 2.0), (6.0, 0.0), (2.0, 3.0)])
def test_the_divergence_penalty_is_a_power_of_the_norm(power, length, images):
    critic = flat(length)
    found = DivergencePenalty(weight=10.0, power=power)(critic, *images, uniform=torch.rand(4))
    found.backward()
    assert found.item() == pytest.approx(10 * length**power, rel=1e-6)
    assert critic.weight.grad[0, 0, 0].item() == pytest.approx(10 * power * length ** (power - 1), rel=1e-6)


@pytest.mark.parametrize("penalty", [LipschitzPenalty(weight=1.0), DivergencePenalty(weight=1.0, power=2.0)])
def test_further_penalties_are_taken_between_each_real_image_and_its_own_fake(penalty, images):
    real, fake = images
    uniform = torch.tensor([0.0, 1.0, 0.25, 0.5])
    lengths = (uniform.view(-1, 1, 1, 1) * real + (1 - uniform.view(-1, 1, 1, 1)) * fake).flatten(1).norm(dim=1)
    excess = (lengths - 1).clamp_min(0) if isinstance(penalty, LipschitzPenalty) else lengths
    expected = excess.square().mean().item()
    assert penalty(Quadratic(), real, fake, uniform).item() == pytest.approx(expected, rel=1e-5)


def test_a_power_without_a_gradient_at_zero_is_refused():
    with pytest.raises(ValueError, match="power: must be at least 2, not 1"):
        DivergencePenalty(power=1)


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
