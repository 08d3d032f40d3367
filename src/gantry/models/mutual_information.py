"""The mutual information of InfoGAN, between the codes of a latent and the image that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, pi
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from gantry.core.errors import UserError
from gantry.models.play import Play


@dataclass(frozen=True)
class MutualInformation:
    """The negative lower bound of the mutual information of codes and images (Chen et al. 2016, InfoGAN, equation 5).

    - sum over codes c of weight * E[log Q(c | G(z))], without the codes' entropies, which are constant. Q of a
    categorical code is a softmax: its cross-entropy, in nats. Q of a uniform one is a normal distribution of variance
    1, whose mean it tells: half the squared error plus log(2 pi) / 2.

    As in the official code both players minimise it on generated images: the discriminator's turn moves Q and the body
    that it shares, the generator's the generator. The official code has one weight for each kind of code, 1 for both,
    though the paper says that a continuous one needs a smaller one.

    Args:
        categorical: weight of each categorical code.
        continuous: weight of each uniform code.
    """

    categorical: float = 1.0
    continuous: float = 1.0
    every: int = 1
    players: ClassVar[tuple[str, ...]] = ("discriminator", "generator")
    draws: ClassVar[Mapping[str, int]] = MappingProxyType({})

    def needs_of(self, player: str) -> frozenset[str]:
        """The outputs for generated images."""
        return frozenset({"fake"})

    def __call__(self, play: Play) -> Tensor:
        latents = play.players.latents
        told = play.outputs["fake"].heads.get("code")
        if latents is None or told is None or told.shape[1] != latents.code_size:
            raise UserError(
                "model.terms: MutualInformation needs a generator with codes and a discriminator that tells them: "
                "choose model/network=infogan, with the same model.generator.codes and model.discriminator.codes"
            )
        parts = told.split([code.width for code in latents.codes], 1)
        values = latents.code_values(play.z)
        total = told.new_zeros(())
        for code, part in zip(latents.codes, parts, strict=True):
            if code.bounds is None:
                total = total + self.categorical * cross_entropy(part, values[code.name])
            else:
                nats = 0.5 * mse_loss(part[:, 0], values[code.name]) + 0.5 * log(2 * pi)
                total = total + self.continuous * nats
        return total
