"""Penalties, which are added to the discriminator's loss, and constraints, which project its weights.

A penalty is an object with `every` (it is due at each `every`-th discriminator step, with `every` times the weight:
lazy regularisation, Karras et al. 2020, StyleGAN2, section 3.2) that is called with the discriminator as a function of
images, a batch of real and one of generated images, each (B, C, H, W) in [-1, 1], and B uniform numbers in [0, 1); it
returns a scalar. It may declare `at`, "real" (without it) or "fake": the images whose labels, and whose augmentation,
go with the images that it gives to the discriminator; and `own_step`: whether it is minimised in a step of its own
after that of the loss, as the code of StyleGAN2 does it.
Under float16 the gradients of the discriminator's output with respect to its input are computed in float32, since
they overflow; bfloat16 has float32's range, and the norms of the gradients are computed in float32 in any case.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from gantry.models.networks.blocks import Output
from gantry.models.play import logits_of
from gantry.models.without_autocast import without_autocast

Critic = Callable[[Tensor], Tensor | Output]  # the discriminator as a function of images alone


class Penalty(Protocol):
    """A term added to the discriminator's loss at every `every`-th of its steps."""

    @property
    def every(self) -> int: ...

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor: ...


class Constraint(Protocol):
    """A projection applied to the discriminator after each of its steps."""

    def __call__(self, discriminator: nn.Module) -> None: ...


def squared_gradient_norm(discriminator: Critic, images: Tensor) -> Tensor:
    """Return the squared norm of the gradient of each image's logit with respect to that image.

    Args:
        discriminator: maps (B, C, H, W) to one logit an image; a network that mixes the images of a batch
            (BatchNorm) has no such per-image gradient.
        images: (B, C, H, W).

    Returns:
        (B,) float32, differentiable with respect to the discriminator's weights.
    """
    kind = images.device.type
    available = torch.amp.is_autocast_available(kind)  # not on the meta device, where a step's memory is counted
    overflows = available and torch.get_autocast_dtype(kind) is torch.float16
    with torch.autocast(kind, enabled=False) if overflows else nullcontext():
        images = images.detach().float().requires_grad_()
        total = logits_of(discriminator(images)).sum()
        with without_autocast(images.device):
            (gradient,) = torch.autograd.grad(total, images, create_graph=True)
        return gradient.flatten(1).square().sum(1)


def between(real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
    """Return the point (B, C, H, W) of each real image's line to its fake at `uniform` (B,), where 1 is the real."""
    return torch.lerp(fake.float(), real.float(), uniform.view(-1, 1, 1, 1))


def gradient_norm(discriminator: Critic, images: Tensor) -> Tensor:
    """Return the root of `squared_gradient_norm` (B,)."""
    # The square root has no gradient at zero; 1e-12 moves a norm of 1 by 5e-13.
    return (squared_gradient_norm(discriminator, images) + 1e-12).sqrt()


@dataclass(frozen=True)
class GradientPenalty:
    """Gulrajani et al. 2017, Improved Training of Wasserstein GANs, equation 3.

    weight * E (|grad D(x)| - 1)^2 at x drawn uniformly on the line between each real image and a fake.
    """

    weight: float = 10.0
    every: int = 1

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        norm = gradient_norm(discriminator, between(real, fake, uniform))
        return self.weight * (norm - 1).square().mean()


@dataclass(frozen=True)
class LipschitzPenalty:
    """WGAN-LP: Petzka et al. 2018, On the Regularization of Wasserstein GANs, equation 8.

    weight * E max(0, |grad D(x)| - 1)^2 at the x of `GradientPenalty`: a gradient shorter than 1 costs nothing.
    """

    weight: float = 5.0
    every: int = 1

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        norm = gradient_norm(discriminator, between(real, fake, uniform))
        return self.weight * relu(norm - 1).square().mean()


@dataclass(frozen=True)
class DivergencePenalty:
    """WGAN-div: Wu et al. 2018, Wasserstein Divergence for GANs, equation 6.

    weight * E |grad D(x)|^power at the x of `GradientPenalty`.

    Args:
        weight: the paper's k: 2 there, 10 in the authors' code.
        power: the paper's p, at least 2.
        every: discriminator steps from one to the next.

    Raises:
        ValueError: the power is below 2, for which a gradient of zero has none of its own.
    """

    weight: float = 10.0
    power: float = 6.0
    every: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.power, int | float) and self.power < 2:
            raise ValueError(f"power: must be at least 2, not {self.power}")

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        squared = squared_gradient_norm(discriminator, between(real, fake, uniform))
        return self.weight * squared.pow(self.power / 2).mean()


@dataclass(frozen=True)
class R1:
    """Mescheder et al. 2018, Which Training Methods for GANs do actually Converge?, equation 9.

    gamma / 2 * E |grad D(x)|^2 at real images.

    Args:
        gamma: its weight.
        every: discriminator steps from one to the next.
        own_step: a step of its own after that of the loss, for which the discriminator's rate and betas are rescaled
            (Karras et al. 2020, StyleGAN2, appendix B); False: a term of the loss.
    """

    gamma: float = 10.0
    every: int = 1
    own_step: bool = False
    at: ClassVar[str] = "real"
    reals_alone: ClassVar[bool] = True

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        return 0.5 * self.gamma * squared_gradient_norm(discriminator, real).mean()


@dataclass(frozen=True)
class R2:
    """Mescheder et al. 2018, equation 10: as `R1`, at generated images."""

    gamma: float = 10.0
    every: int = 1
    own_step: bool = False
    at: ClassVar[str] = "fake"

    def __call__(self, discriminator: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        return 0.5 * self.gamma * squared_gradient_norm(discriminator, fake).mean()


INPUT_GRADIENT = (GradientPenalty, LipschitzPenalty, DivergencePenalty, R1, R2)


@dataclass(frozen=True)
class WeightClipping:
    """Arjovsky et al. 2017, Wasserstein GAN, algorithm 1, line 7: every weight into [-bound, bound]."""

    bound: float = 0.01

    @torch.no_grad()
    def __call__(self, discriminator: nn.Module) -> None:
        for weight in discriminator.parameters():
            weight.clamp_(-self.bound, self.bound)
