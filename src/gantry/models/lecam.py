"""LeCam regularisation (Tseng et al. 2021, Regularizing Generative Adversarial Networks under Limited Data)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

if TYPE_CHECKING:
    from gantry.models.play import Play


class LeCam(nn.Module):
    """Keeps D(x) near the moving average a_F of its fakes' logits, and D(G(z)) near a_R, that of the reals'.

    weight * (E relu(D(x) - a_F)^2 + E relu(a_R - D(G(z)))^2), as the authors' code. The paper's equation 3 has no relu.
    Before update number `start`, and at the first, the averages are the present means; up to and including it the term
    is 0. An update is a call: with gradients accumulated over parts of a batch, each part is one, as in their code.

    Args:
        weight: 0.3 for BigGAN on CIFAR-10.
        decay: of the averages, in [0, 1); 0.9 in the authors' PyTorch code, 0.99 in their TensorFlow code.
        start: updates of the averages before the term begins, counted from 1.
        relu: False for the paper's equation.
        every: it is due at each `every`-th turn, with `every` times the weight.
    """

    players: ClassVar[tuple[str, ...]] = ("discriminator",)
    draws: ClassVar[Mapping[str, int]] = MappingProxyType({})
    real: Tensor
    fake: Tensor
    updates: Tensor

    def __init__(
        self, weight: float = 0.3, decay: float = 0.9, start: int = 1000, relu: bool = True, every: int = 1
    ) -> None:
        super().__init__()
        self.weight, self.decay, self.start, self.relu, self.every = weight, decay, start, relu, every
        for name, value in (("real", 0.0), ("fake", 0.0), ("updates", 0)):
            self.register_buffer(name, torch.tensor(value))

    def needs_of(self, player: str) -> frozenset[str]:
        """The outputs for both kinds of images."""
        return frozenset({"real", "fake"})

    def forward(self, play: Play) -> Tensor:
        """Update the averages by the means over all ranks, and return the term."""
        real, fake = play.outputs["real"].logits.float(), play.outputs["fake"].logits.float()
        self.updates.add_(1)
        near_real, near_fake = (
            self._updated(average, play.ranks.mean(logits.mean()))
            for average, logits in ((self.real, real), (self.fake, fake))
        )
        kept = relu if self.relu else (lambda difference: difference)
        term = kept(real - near_fake).square().mean() + kept(near_real - fake).square().mean()
        return self.weight * term * (self.updates > self.start)

    @torch.no_grad()
    def _updated(self, average: Tensor, mean: Tensor) -> Tensor:
        """Update an average, and return its value, which a later update does not change."""
        decay = self.decay * ((self.updates >= self.start) & (self.updates > 1))
        return average.copy_(average * decay + mean * (1 - decay)).clone()
