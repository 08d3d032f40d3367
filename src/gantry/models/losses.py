"""Adversarial losses: pure functions of the discriminator's raw outputs.

Each takes the logits of a batch of real and of generated images, two tensors of one shape with values in
(-inf, inf), and returns the scalars that the discriminator and the generator minimise. No sigmoid is applied before:
where a paper writes log sigmoid(x), the softplus here is equal and does not overflow. Users can write a loss as such a
function; `generator_sees` declares whether the generator's step needs real images, and is optional. `over_the_batch`
declares that it compares images of a batch, as by a mean within a function; without it each rank does so for its own.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus


class Losses(NamedTuple):
    """The scalars that the discriminator and the generator minimise."""

    discriminator: Tensor
    generator: Tensor


Loss = Callable[[Tensor, Tensor], Losses]
DECLARED = "generator_sees"  # attributes of a loss
BATCHED = "over_the_batch"


def generator_sees(*outputs: str) -> Callable[[Loss], Loss]:
    """Declare which of the discriminator's outputs, "real" and "fake", the generator's loss depends on.

    Raises:
        ValueError: there are no such outputs.
    """
    if unknown := {*outputs} - {"real", "fake"}:
        raise ValueError(f"generator_sees: must be of real and fake, not {', '.join(sorted(unknown))}")

    def declared(loss: Loss) -> Loss:
        setattr(loss, DECLARED, frozenset(outputs))
        return loss

    return declared


def over_the_batch(loss: Loss) -> Loss:
    """Declare that a loss compares the images of a batch, so that it is given the logits of all ranks."""
    setattr(loss, BATCHED, True)
    return loss


def compares_the_batch(loss: Loss) -> bool:
    """Return True for a loss declared by `over_the_batch`."""
    return bool(getattr(_unwrapped(loss), BATCHED, False))


@generator_sees("fake")
def minimax(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Losses:
    """Goodfellow et al. 2014, Generative Adversarial Nets, equation 1.

    D maximises E log D(x) + E log(1 - D(G(z))), and G minimises it; G's gradient fades when D wins.

    Args:
        smoothing: s of one-sided label smoothing, 0 to 1: D's target for real images is 1 - s, that for fakes 0
            (Salimans et al. 2016, Improved Techniques, section 3.4).
    """
    return Losses(_taken_for_real(real, smoothing) + softplus(fake).mean(), -softplus(fake).mean())


@generator_sees("fake")
def non_saturating(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Losses:
    """Goodfellow et al. 2014, section 3: D as in `minimax`, while G maximises E log D(G(z)).

    Args:
        smoothing: as of `minimax`.
    """
    return Losses(_taken_for_real(real, smoothing) + softplus(fake).mean(), softplus(-fake).mean())


@generator_sees("fake")
def least_squares(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Losses:
    """Mao et al. 2017, Least Squares GAN, equation 9: targets a = 0 for fakes, b = c = 1 for reals and G.

    Args:
        smoothing: s of one-sided label smoothing, 0 to 1: b is 1 - s, and c remains 1.
    """
    discriminator = 0.5 * (real - (1 - smoothing)).square().mean() + 0.5 * fake.square().mean()
    return Losses(discriminator, 0.5 * (fake - 1).square().mean())


@generator_sees("fake")
def wasserstein(real: Tensor, fake: Tensor) -> Losses:
    """Arjovsky et al. 2017, Wasserstein GAN, equation 3: the critic's gap between fakes and reals.

    Bounded only together with a Lipschitz constraint on the critic (clipping, gradient penalty, spectral norm).
    """
    return Losses(fake.mean() - real.mean(), -fake.mean())


@generator_sees("fake")
def hinge(real: Tensor, fake: Tensor) -> Losses:
    """Lim and Ye 2017, Geometric GAN; Miyato et al. 2018, Spectral Normalization, equations 16 and 17."""
    return Losses(relu(1 - real).mean() + relu(1 + fake).mean(), -fake.mean())


@generator_sees("real", "fake")
def relativistic_pairing(real: Tensor, fake: Tensor) -> Losses:
    """Jolicoeur-Martineau 2018; Huang et al. 2024, The GAN is dead, equation 2: each real against its own fake.

    The generator's loss depends on the real logits too.
    """
    return Losses(softplus(fake - real).mean(), softplus(real - fake).mean())


@over_the_batch
@generator_sees("real", "fake")
def relativistic_average(real: Tensor, fake: Tensor) -> Losses:
    """RaGAN: Jolicoeur-Martineau 2018, The relativistic discriminator, equations 13 and 14, each halved as in its code.

    Each image against the mean of the other kind, over all ranks. The generator's loss depends on the real logits too.
    """
    of_real, of_fake = real - fake.mean(), fake - real.mean()
    discriminator = softplus(-of_real).mean() + softplus(of_fake).mean()
    generator = softplus(of_real).mean() + softplus(-of_fake).mean()
    return Losses(0.5 * discriminator, 0.5 * generator)


@generator_sees("real", "fake")
def bidirectional(real: Tensor, fake: Tensor, weight: float = 1.0) -> Losses:
    """Donahue et al. 2017, Adversarial Feature Learning; Dumoulin et al. 2017, Adversarially Learned Inference.

    The logits are those of pairs: q of a real image with its code, p of a generated one with its latent. D minimises
    softplus(-q) + softplus(p). Generator and encoder minimise softplus(q) + softplus(-p), with the labels swapped, as
    both official codes do, and not D's loss negated, as equation 3 (BiGAN) and 4 (ALI) read.

    Args:
        weight: of both; the code of BiGAN: 0.5, which matters beside weight decay.
    """
    discriminator = softplus(-real).mean() + softplus(fake).mean()
    return Losses(weight * discriminator, weight * (softplus(real).mean() + softplus(-fake).mean()))


def _taken_for_real(real: Tensor, smoothing: float) -> Tensor:
    """Return the cross entropy of target 1 - s: (1 - s) softplus(-r) + s softplus(r), which is softplus(-r) + s r."""
    return (softplus(-real) + smoothing * real).mean()


def _unwrapped(loss: Loss) -> Loss:
    """Return the function of a loss some of whose arguments are given already."""
    while isinstance(loss, partial):
        loss = loss.func
    return loss


def seen_by_generator(loss: Loss) -> frozenset[str]:
    """Return which of the discriminator's outputs, "real" and "fake", the generator's loss depends on.

    A loss without a declaration by `generator_sees` is tried out: it depends on the real logits if its gradient reaches
    them, or if its value changes with them (they may be detached or compared with a bound). If it does not depend on
    them, the generator's step need not run the discriminator on real images.
    """
    declared: frozenset[str] | None = getattr(_unwrapped(loss), DECLARED, None)
    if declared is not None:
        return declared
    fake = torch.tensor([0.1, 0.4], requires_grad=True)
    trials = [torch.tensor([0.3, -0.2]) * scale for scale in (1.0, -1.0, 0.01, 10.0, 1e4, -1e4)]
    tried = copy.deepcopy(loss)  # a stateful loss must not keep state from the trial
    values = [tried(real.requires_grad_(), fake).generator for real in trials]
    (gradient,) = torch.autograd.grad(values[0], trials[0], allow_unused=True)
    same = gradient is None and all(torch.equal(value, values[0]) for value in values)
    return frozenset({"fake"}) if same else frozenset({"real", "fake"})
