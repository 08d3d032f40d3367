"""Terms that one or both players minimise beside their loss, as functions of a play."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, relu

from gantry.core.errors import UserError
from gantry.models.networks.blocks import Output
from gantry.models.play import Play


class PlayersTerm(Protocol):
    """A term of one or both players; a module where it has state, which lies in buffers.

    One whose state has the shapes of weights has `begin`, which is called once with both networks by player.

    Attributes:
        players: who minimises it, "generator", "discriminator" or both.
        every: it is due at each `every`-th turn of a player, with `every` times the weight.
        draws: purposes for which it needs uniform numbers, and how many an image; `gantry.models.step_inputs.LATENT`:
            as many as a latent has.
    """

    @property
    def players(self) -> tuple[str, ...]: ...
    @property
    def every(self) -> int: ...
    @property
    def draws(self) -> Mapping[str, int]: ...

    def needs_of(self, player: str) -> frozenset[str]:
        """Return the outputs of the discriminator that it reads in a turn of a player, of "real" and "fake"."""

    def __call__(self, play: Play) -> Tensor: ...


BOTH = ("discriminator", "generator")
NO_DRAWS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class AuxiliaryClassifier:
    """The classification term of AC-GAN (Odena et al. 2017, equation 3): cross entropy of the discriminator's classes.

    Each image's class is that of the data for real images and the asked one for generated images. In the paper both
    players minimise it for both kinds. The code of the WGAN-GP ResNet for CIFAR-10 (gan_cifar_resnet.py) takes real
    images alone in the discriminator's turn, and 0.1 times the fakes' in the generator's.

    A classifier trained on generated images may come to read marks by which the generator tells classes apart, and then
    images of no asked class cost neither player anything. `fake` 0 leaves no room for that.

    Args:
        real, fake: weights of real and of generated images in the discriminator's turn.
        generator: weight of generated images in the generator's turn.
    """

    real: float = 1.0
    fake: float = 1.0
    generator: float = 1.0
    every: int = 1
    players: ClassVar[tuple[str, ...]] = BOTH
    draws: ClassVar[Mapping[str, int]] = NO_DRAWS

    def needs_of(self, player: str) -> frozenset[str]:
        """Both kinds in the discriminator's turn, generated images in the generator's."""
        return frozenset({"real", "fake"}) if player == "discriminator" else frozenset({"fake"})

    def __call__(self, play: Play) -> Tensor:
        fake = cross_entropy(head(play.outputs["fake"], "class", self), labels(play.fake_labels, self))
        if play.player == "generator":
            return self.generator * fake
        real = cross_entropy(head(play.outputs["real"], "class", self), labels(play.labels, self))
        return self.real * real + self.fake * fake


@dataclass(frozen=True)
class DataToData:
    """The data-to-data cross-entropy of ReACGAN (Kang et al. 2021, equation 8), on the discriminator's embeddings.

    For image i with embedding h_i, the proxy v_i of its class, margin m and temperature t it is the mean over i of

        log(1 + sum over j of other classes of exp((max(h_i . h_j + m - 1, 0) - min(h_i . v_i - m, 0)) / t)),

    so that images nearer to their proxy than m, and further from other classes than 1 - m, weigh no more. The official
    code subtracts the largest exponent from the negatives and not from the positive, which is another function of
    the embeddings; this is the paper's. The discriminator minimises it on real images, the generator on its own.

    Args:
        weight: of the term.
        margin: of the cosines, in (0, 1].
        temperature: which divides them, above 0.
    """

    weight: float = 1.0
    margin: float = 0.98
    temperature: float = 0.5
    every: int = 1
    players: ClassVar[tuple[str, ...]] = BOTH
    draws: ClassVar[Mapping[str, int]] = NO_DRAWS

    def needs_of(self, player: str) -> frozenset[str]:
        """Real images in the discriminator's turn, generated ones in the generator's."""
        return frozenset({"real" if player == "discriminator" else "fake"})

    def __call__(self, play: Play) -> Tensor:
        name = "real" if play.player == "discriminator" else "fake"
        embedding, proxy = (head(play.outputs[name], part, self) for part in ("embedding", "proxy"))
        asked = labels(play.labels if name == "real" else play.fake_labels, self)
        others, theirs = play.ranks.gather(embedding), play.ranks.gather(asked)
        negative = relu(embedding @ others.T + self.margin - 1)
        positive = torch.clamp((embedding * proxy).sum(1) - self.margin, max=0.0)
        exponents = (negative - positive[:, None]) / self.temperature
        exponents = exponents.masked_fill(asked[:, None] == theirs[None], float("-inf"))
        # log(1 + sum exp x) is the logsumexp of all x and of 0.
        zeros = exponents.new_zeros(len(exponents), 1)
        return self.weight * torch.logsumexp(torch.cat([zeros, exponents], 1), 1).mean()


@dataclass(frozen=True)
class Drift:
    """The drift penalty of Karras et al. 2018, Progressive Growing of GANs, appendix A.1: weight * E[D(x)^2].

    x are real images. It keeps a Wasserstein critic's outputs, which its loss leaves free but for their differences,
    near zero.
    """

    weight: float = 1e-3
    every: int = 1
    players: ClassVar[tuple[str, ...]] = ("discriminator",)
    draws: ClassVar[Mapping[str, int]] = NO_DRAWS

    def needs_of(self, player: str) -> frozenset[str]:
        """Real images."""
        return frozenset({"real"})

    def __call__(self, play: Play) -> Tensor:
        return self.weight * play.outputs["real"].logits.square().mean()


def head(output: Output, name: str, term: object) -> Tensor:
    """Return one of the discriminator's further outputs.

    Raises:
        UserError: the discriminator has no such output; the message names those that have it.
    """
    if name not in output.heads:
        condition = {"class": "classifier"}.get(name, "embedding")
        raise UserError(
            f"model.terms: {type(term).__name__} needs a discriminator that returns {name!r}: choose "
            f"model/network=conditional_dcgan (or conditional_mlp, conditional_resnet) with "
            f"model.discriminator.condition={condition}, or model=biggan with "
            f"+model.discriminator.condition={condition}"
        )
    return output.heads[name]


def labels(given: Tensor | None, term: object) -> Tensor:
    """Return labels.

    Raises:
        UserError: neither network takes labels.
    """
    if given is None:
        raise UserError(f"model.terms: {type(term).__name__} needs labels, and no network of this variant takes any")
    return given
