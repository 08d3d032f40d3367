"""Adversarial losses: pure functions of the discriminator's raw outputs.

Each takes the logits of a batch of real and of generated images, two tensors of one shape with values in
(-inf, inf), and returns what each player minimises, as scalars. No sigmoid stands before them: where a paper
writes log sigmoid(x), the softplus here is the same number without its overflow.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus


class Losses(NamedTuple):
    """What the discriminator and the generator minimise: two scalar tensors."""

    discriminator: Tensor
    generator: Tensor


Loss = Callable[[Tensor, Tensor], Losses]


def minimax(real: Tensor, fake: Tensor) -> Losses:
    """Goodfellow et al. 2014, Generative Adversarial Nets, equation 1.

    D maximises E log D(x) + E log(1 - D(G(z))), and G minimises it; G's gradient fades when D wins.
    """
    return Losses(softplus(-real).mean() + softplus(fake).mean(), -softplus(fake).mean())


def non_saturating(real: Tensor, fake: Tensor) -> Losses:
    """Goodfellow et al. 2014, section 3: D as in `minimax`, while G maximises E log D(G(z))."""
    return Losses(softplus(-real).mean() + softplus(fake).mean(), softplus(-fake).mean())


def least_squares(real: Tensor, fake: Tensor) -> Losses:
    """Mao et al. 2017, Least Squares GAN, equation 9: targets a = 0 for fakes, b = c = 1 for reals and G."""
    return Losses(0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean(), 0.5 * (fake - 1).square().mean())


def wasserstein(real: Tensor, fake: Tensor) -> Losses:
    """Arjovsky et al. 2017, Wasserstein GAN, equation 3: the critic's gap between fakes and reals.

    Bounded only together with a Lipschitz constraint on the critic (clipping, gradient penalty, spectral norm).
    """
    return Losses(fake.mean() - real.mean(), -fake.mean())


def hinge(real: Tensor, fake: Tensor) -> Losses:
    """Lim and Ye 2017, Geometric GAN; Miyato et al. 2018, Spectral Normalization, equations 16 and 17."""
    return Losses(relu(1 - real).mean() + relu(1 + fake).mean(), -fake.mean())


def relativistic_pairing(real: Tensor, fake: Tensor) -> Losses:
    """Jolicoeur-Martineau 2018; Huang et al. 2024, The GAN is dead, equation 2: each real against its own fake.

    The generator's loss depends on the real logits too.
    """
    return Losses(softplus(fake - real).mean(), softplus(real - fake).mean())


def generator_sees_real(loss: Loss) -> bool:
    """Whether the generator's loss depends on the real logits, found from its gradient at a test point.

    Relativistic losses do; for the others the generator's step need not run the discriminator on real images.
    """
    real = torch.tensor([0.3, -0.2], requires_grad=True)
    fake = torch.tensor([0.1, 0.4], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(real, fake).generator, real, allow_unused=True)
    return gradient is not None
