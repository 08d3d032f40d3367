"""Consistency regularisation: what the discriminator says changes little with a view of an image, or with its latent.

The paper of the last two has no official code; where it is silent, they do as StudioGAN does.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from gantry.models.augment.diffaugment import FlipTranslate
from gantry.models.augment.uniform import standard_normal
from gantry.models.networks.blocks import Output
from gantry.models.step_inputs import LATENT

if TYPE_CHECKING:
    from gantry.models.play import Batch, Play, View

COMPARED = ("class", "embedding")  # the further outputs of a discriminator that are compared, beside its logits


class Consistency(nn.Module):
    """CR: weight * E (D(x) - D(T(x)))^2 at real images x (Zhang et al. 2020, Consistency Regularization, equation 2).

    D(x) is the output that the loss sees, so after the variant's own augmentation; D(T(x)) is at the view T alone.

    Args:
        weight: the paper's lambda.
        view: T, an augmentation as of `gantry.models.augment`; null: mirroring and a shift by up to an eighth.
        every: it is due at each `every`-th turn, with `every` times the weight.

    Raises:
        ValueError: the view is one that adapts itself, which it cannot do here.
    """

    players = ("discriminator",)

    def __init__(self, weight: float = 10.0, view: View | None = None, every: int = 1) -> None:
        super().__init__()
        self.weight, self.every = weight, every
        self.view: Any = FlipTranslate() if view is None else view
        if getattr(self.view, "target", None) is not None:
            raise ValueError("view: its p is adapted in the place of model.augment alone; here it needs target: null")

    @property
    def draws(self) -> Mapping[str, int]:
        """The view's numbers for real images."""
        return {"change of real": self.view.width}

    def needs_of(self, player: str) -> frozenset[str]:
        """The outputs for real images."""
        return frozenset({"real"})

    def forward(self, play: Play) -> Tensor:
        """Return the term."""
        return self.weight * self._change(play, "real", play.real)

    def _change(self, play: Play, name: str, batch: Batch) -> Tensor:
        viewed = self.view(batch.images, play.draws[f"change of {name}"])
        return distance(play.outputs[name], play.discriminate(viewed, batch.labels, batch.codes))


class BalancedConsistency(Consistency):
    """bCR: as `Consistency`, at real and at generated images (Zhao et al. 2021, Improved Consistency, section 3.1).

    Args:
        real, fake: weights of the two.
        view: as of `Consistency`.
        every: as of `Consistency`.
    """

    def __init__(self, real: float = 10.0, fake: float = 10.0, view: View | None = None, every: int = 1) -> None:
        super().__init__(view=view, every=every)
        self.real, self.fake = real, fake

    @property
    def draws(self) -> Mapping[str, int]:
        """The view's numbers for both kinds of images."""
        return {"change of real": self.view.width, "change of fake": self.view.width}

    def needs_of(self, player: str) -> frozenset[str]:
        """The outputs for both kinds of images."""
        return frozenset({"real", "fake"})

    def forward(self, play: Play) -> Tensor:
        """Return the term."""
        real, fake = self._change(play, "real", play.real), self._change(play, "fake", play.fake)
        return self.real * real + self.fake * fake


@dataclass(frozen=True)
class LatentConsistency:
    """zCR: latents z and z + sigma N(0, 1) (Zhao et al. 2021, Improved Consistency Regularization, section 3.2).

    The discriminator minimises discriminator * E (D(G(z)) - D(G(z + e)))^2, and the generator, whose images shall
    differ, -generator * E (G(z) - G(z + e))^2, a mean over pixels. The weights are those of StudioGAN's `BigGAN-ICR`.

    Args:
        sigma: of the change of a latent.
        discriminator, generator: weights of the two.
        every: it is due at each `every`-th turn, with `every` times the weight.
    """

    sigma: float = 0.05
    discriminator: float = 20.0
    generator: float = 0.5
    every: int = 1
    players: ClassVar[tuple[str, ...]] = ("discriminator", "generator")

    draws: ClassVar[Mapping[str, int]] = MappingProxyType({"change of latent": LATENT})

    def needs_of(self, player: str) -> frozenset[str]:
        """The outputs for generated images in the discriminator's turn."""
        return frozenset({"fake"} if player == "discriminator" else ())

    def __call__(self, play: Play) -> Tensor:
        generating, labels = play.player == "generator", play.fake.labels
        with nullcontext() if generating else torch.no_grad():
            changed = play.z + self.sigma * standard_normal(play.draws["change of latent"])
            near = play.generate(changed, labels)
        if generating:
            return -self.generator * mse_loss(near.float(), play.fake.images.float())
        return self.discriminator * distance(play.outputs["fake"], play.discriminate(near, labels, play.code(changed)))


def distance(one: Output, other: Output) -> Tensor:
    """Return the mean squared difference of logits, and of classes' logits and embeddings where there are any."""
    pairs = [(one.logits, other.logits), *((one.heads[n], other.heads[n]) for n in COMPARED if n in one.heads)]
    return torch.stack([mse_loss(left.float(), right.float()) for left, right in pairs]).sum()
