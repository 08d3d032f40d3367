"""The gradient penalty of DRAGAN (Kodali et al. 2017, On Convergence and Stability of GANs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, stack

from gantry.models.penalties import gradient_norm
from gantry.models.step_inputs import PIXELS

if TYPE_CHECKING:
    from gantry.models.play import Play


@dataclass(frozen=True)
class LocalGradientPenalty:
    """weight * E (|grad D(x)| - 1)^2 near real images (section 2.4), with the noise of the authors' notebook.

    x lies on the line from a real image to the same image with `spread` * std * U[0, 1) added to each value, at a share
    of the way drawn for each image; std is one number, that of all values of the batch over all ranks. The noise only
    brightens. Other public codes differ: one takes a deviation for each value and no line, one U[-1/2, 1/2) and a clip
    to the range of images, and one a Wasserstein loss beside it.

    Args:
        weight: of the penalty.
        spread: of the noise, in standard deviations of the batch.
        every: it is due at each `every`-th turn, with `every` times the weight.
    """

    weight: float = 10.0
    spread: float = 0.5
    every: int = 1
    players: ClassVar[tuple[str, ...]] = ("discriminator",)
    draws: ClassVar[Mapping[str, int]] = MappingProxyType({"noise": PIXELS, "place": 0})

    def needs_of(self, player: str) -> frozenset[str]:
        """No outputs: it calls the discriminator at images of its own."""
        return frozenset()

    def __call__(self, play: Play) -> Tensor:
        real = play.differentiated("real").float()
        first, second = play.ranks.mean(stack([real.mean(), real.square().mean()]))
        deviation = (second - first.square()).clamp_min(0).sqrt()
        noise = self.spread * deviation * play.draws["noise"].view(real.shape)
        near = real + play.draws["place"].view(-1, 1, 1, 1) * noise
        return self.weight * (gradient_norm(play.critic("real"), near) - 1).square().mean()
