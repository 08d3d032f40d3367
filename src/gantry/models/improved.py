"""Terms of Salimans et al. 2016, Improved Techniques for Training GANs: feature matching, historical averaging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from gantry.core.errors import UserError
from gantry.models.terms import BOTH, NO_DRAWS

if TYPE_CHECKING:
    from gantry.models.play import Play


@dataclass(frozen=True)
class FeatureMatching:
    """The generator's images shall have the mean features of real ones (section 3.1).

    With d = E f(x) - E f(G(z)), where f are the discriminator's features and the means are over the batch of all ranks,
    it is weight times the mean over features of d^2, as in the official code for MNIST, or of |d|, as in that for
    CIFAR-10. The paper has the sum of d^2. In these codes the generator has no other loss; here it has its own beside.

    Args:
        weight: of the term.
        distance: "squared" or "absolute".
        every: it is due at each `every`-th turn, with `every` times the weight.

    Raises:
        ValueError: the distance is none of these.
    """

    weight: float = 1.0
    distance: Literal["squared", "absolute"] = "squared"
    every: int = 1
    players: ClassVar[tuple[str, ...]] = ("generator",)
    draws: ClassVar[Mapping[str, int]] = NO_DRAWS

    def __post_init__(self) -> None:
        if self.distance not in ("squared", "absolute"):
            raise ValueError(f"distance: must be squared or absolute, not {self.distance}")

    def needs_of(self, player: str) -> frozenset[str]:
        """The features of both kinds of images."""
        return frozenset({"real", "fake"})

    def __call__(self, play: Play) -> Tensor:
        real, fake = (features(play, name) for name in ("real", "fake"))
        difference = play.ranks.mean(real.mean(0)) - play.ranks.gather(fake).mean(0)
        return self.weight * (difference.square() if self.distance == "squared" else difference.abs()).mean()


class HistoricalAveraging(nn.Module):
    """weight * |w - a|^2 over all weights w of a player, where a is their mean over its turns so far (section 3.3).

    The mean includes the present weights, and the gradient takes it as constant. The official code has no such term;
    this is the paper's, which names no weight.

    Args:
        weight: of the term.
        every: it is due at each `every`-th turn, with `every` times the weight; the mean is over these turns.
    """

    players: ClassVar[tuple[str, ...]] = BOTH
    draws: ClassVar[Mapping[str, int]] = NO_DRAWS

    def __init__(self, weight: float = 1e-4, every: int = 1) -> None:
        super().__init__()
        self.weight, self.every = weight, every

    def begin(self, networks: Mapping[str, nn.Module]) -> None:
        """Make room for the means: a buffer for each weight of each player."""
        for player in self.players:
            self.register_buffer(f"{player}_turns", torch.tensor(0))
            for number, weight in enumerate(networks[player].parameters()):
                self.register_buffer(f"{player}_{number}", weight.detach().float().clone())

    def needs_of(self, player: str) -> frozenset[str]:
        """Return nothing: it reads no outputs of the discriminator."""
        return frozenset()

    def forward(self, play: Play) -> Tensor:
        """Take the present weights into their means, and return the term."""
        turns = self.get_buffer(f"{play.player}_turns").add_(1)
        squares = []
        for number, weight in enumerate(play.network.parameters()):
            mean = self.get_buffer(f"{play.player}_{number}")
            with torch.no_grad():
                mean.add_((weight.float() - mean) / turns)
            squares.append((weight.float() - mean).square().sum())
        return self.weight * torch.stack(squares).sum()


def features(play: Play, name: str) -> Tensor:
    """Return the discriminator's features (B, F) of "real" or "fake" images.

    Raises:
        UserError: it returns none; the message names those that do.
    """
    found = play.outputs[name].features
    if found is None:
        raise UserError(
            "model.terms: FeatureMatching needs a discriminator that returns features: choose model/network=improved "
            "(or conditional_dcgan, conditional_mlp, conditional_resnet, biggan)"
        )
    return found
