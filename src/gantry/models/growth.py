"""Progressive growing (Karras et al. 2018, Progressive Growing of GANs, section 2): when networks and images grow.

The level of detail of `gantry.models.networks.growing` is a scheduled number of images, which the networks, the moving
average and the real images share. It is set before a step: its whole part decides which computations the step has.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gantry.core.errors import UserError
from gantry.models.networks.growing import Growing, enlarged, shrunk, split
from gantry.models.schedules import Progress, Unit, passed

LOD = "lod"  # the place of the level of detail among scheduled numbers


@dataclass(frozen=True)
class Growth:
    """How long the networks stay at a size, and how long the next one takes to come in.

    Args:
        stable: images at a size, at least 0.
        fade: images while the next size is faded in, at least 0; 0: it comes at once.
        reset: the optimizers begin anew, with no averages of gradients, where a fade begins and where it ends; so does
            the official code.

    Raises:
        ValueError: a number is below 0, or both are 0.
    """

    stable: float = 600_000
    fade: float = 600_000
    reset: bool = True

    def __post_init__(self) -> None:
        for name in ("stable", "fade"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must be a number of images, at least 0, not {getattr(self, name)}")
        if self.stable + self.fade == 0:
            raise ValueError("stable and fade: one of both must be above 0, or the networks are whole at once")


@dataclass(frozen=True)
class LevelOfDetail:
    """The level of detail as a `Schedule`: `levels` at first, less 1 after each size and its fade, at last 0."""

    growth: Growth
    levels: int
    unit: ClassVar[Unit] = "images"

    def at(self, done: float) -> float:
        """Return the level of detail after `done` images."""
        sizes, since = divmod(done, self.growth.stable + self.growth.fade)
        faded = passed(since - self.growth.stable, self.growth.fade) if self.growth.fade else 0.0
        return max(self.levels - sizes - faded, 0.0)


@dataclass
class RealsAtLevel:
    """Shows the discriminator real images at the level of detail of its networks.

    The official code shrinks images once, and rounds them to grey levels; here they are not rounded.

    Attributes:
        level, fades: see `Growing`.
    """

    level: int = 0
    fades: bool = False

    def __call__(self, images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Return images (B, C, H, W) of images (B, C, H, W) in [-1, 1].

        Args:
            values: scheduled numbers, among them `LOD`.
        """
        images = shrunk(images, 2**self.level)
        if self.fades:
            images = torch.lerp(images, enlarged(shrunk(images, 2), 2), values[LOD] - self.level)
        return enlarged(images, 2**self.level)


class Grown:
    """The parts of a GAN that grow together.

    Args:
        growth: None: nothing grows, and networks that could are whole.
        networks: by player.
        averaged: the moving average of the generator.

    Attributes:
        schedule: of the level of detail; None: nothing grows.
        reals: what real images are passed through; None: nothing grows.

    Raises:
        UserError: a network does not grow.
    """

    def __init__(self, growth: Growth | None, networks: Mapping[str, nn.Module], averaged: nn.Module) -> None:
        for player, network in networks.items():
            if growth is not None and not isinstance(network, Growing):
                raise UserError(
                    f"model.growth: model.{player} ({type(network).__module__}.{type(network).__qualname__}) does not "
                    "grow: choose model/network=progan, or leave the growth out (~model.growth)"
                )
        self.networks = [each for each in (*networks.values(), averaged) if isinstance(each, Growing)]
        self.reals = None if growth is None else RealsAtLevel()
        self.schedule = None if growth is None else LevelOfDetail(growth, self.networks[0].levels)
        self.set(self.schedule.at(0) if self.schedule else 0.0)

    def set(self, lod: float) -> None:
        """Set the level of detail of networks, average and real images; 0: all are whole."""
        for network in self.networks:
            network.set_lod(lod)
        if self.reals is not None:
            self.reals.level, self.reals.fades = split(lod)

    def begin(self, now: Progress, before: Progress | None, optimizers: Iterable[Optimizer]) -> Sequence[object]:
        """Prepare a step: set the level of detail, and have optimizers begin anew where other layers are computed.

        Args:
            now: the progress before the step.
            before: that before the last step; None: it is the first one. What was computed then follows from it, so
                that a resumed run does as one that was never stopped.
            optimizers: of both players.

        Returns:
            What decides which layers are computed, to be part of the kind of the step.
        """
        if self.schedule is None:
            self.set(0.0)
            return ()
        self.set(lod := self.schedule.at(now.images))
        kind = split(lod)
        if self.schedule.growth.reset and before is not None and split(self.schedule.at(before.images)) != kind:
            for optimizer in optimizers:
                optimizer.state.clear()
        return kind

    def shown(self, images: Tensor) -> Tensor:
        """Return real images (B, C, H, W) in [-1, 1] at the level of detail of the networks."""
        return images if self.reals is None else self.reals(images, {LOD: self.networks[0].lod})

    def unfinished(self, images: int) -> str | None:
        """Return what is said of a budget of images that ends before the networks are whole; None: it does not."""
        if self.schedule is None or (lod := self.schedule.at(images)) == 0:
            return None
        growth = self.schedule.growth
        whole = self.schedule.levels * (growth.stable + growth.fade)
        return (
            f"model.growth: the budget of {images:,} images ends at a level of detail of {lod:.2f}, so that the last "
            f"images have less than their size; the networks are whole after {whole:,.0f} images: give more steps, or "
            "smaller model.growth.stable and model.growth.fade"
        )
