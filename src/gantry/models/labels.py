"""The classes of a data set, and the labels of generated images: draws without state, like the latents."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from gantry.core.randomness import draws
from gantry.models.latents import BLOCK

if TYPE_CHECKING:
    from torch import nn

# Of the labels of generated images: each class equally often, as often as in the data, or those of the real batch.
LabelDraw = Literal["uniform", "data", "paired"]
BY_SHARES = "as often as in the training data"  # how records say that labels were drawn by `Classes.shares`
FURTHER = ("labels", "draws", "codes")  # what a network's forward pass may take beside latents or images


@dataclass(frozen=True)
class Classes:
    """The classes of the images that a GAN is trained on.

    Attributes:
        names: of the classes; label k is of class `names[k]`.
        shares: of the images that are of each class, above 0 or 0, which add up to 1.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, labels: np.ndarray, names: Sequence[str]) -> Classes:
        """Return the classes of a data set with labels int64 (N,), indices into `names`."""
        counts = np.bincount(labels, minlength=len(names))
        return cls(tuple(names), tuple((counts / counts.sum()).tolist()))

    def __len__(self) -> int:
        return len(self.names)

    def shares_of(self, draw: LabelDraw) -> tuple[float, ...]:
        """Return the probability of each class: equal ones for "uniform", else those of the data."""
        return (1 / len(self),) * len(self) if draw == "uniform" else self.shares


def draws_by_player(generator: LabelDraw | None, discriminator: LabelDraw | None) -> dict[str, LabelDraw]:
    """Return how labels are drawn in each turn: uniformly where none is given, the discriminator as the generator."""
    return {"generator": generator or "uniform", "discriminator": discriminator or generator or "uniform"}


def from_uniform(uniform: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return labels int64 (n,) of numbers (n,) in [0, 1): label k where they fall into its share of the interval."""
    bounds = np.cumsum(shares)[:-1]  # without the last: rounding may leave the sum below 1
    return np.searchsorted(bounds, uniform, side="right").astype(np.int64)


def label_stream(seed: int, first: int, count: int, shares: tuple[float, ...]) -> np.ndarray:
    """Return labels `first` to `first + count` of the stream of `seed`, int64 (count,).

    Label i goes with latent i of `gantry.models.latents.stream`, and depends on the seed, i and the shares alone.

    Args:
        shares: the probability of each class.
    """
    blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1) if count else range(0)
    drawn = [_block(seed, block) for block in blocks]
    uniform = np.concatenate(drawn or [np.empty(0)])[first % BLOCK :][:count]
    return from_uniform(uniform, shares)


@dataclass(frozen=True)
class LabelSource:
    """The labels of the images of a seed's stream of latents.

    Attributes:
        shares: the probability of each class.
        cycle: labels that images have in turn, image i that of number i modulo their count; None: drawn by `shares`.
    """

    shares: tuple[float, ...]
    cycle: tuple[int, ...] | None = None

    def __call__(self, seed: int, first: int, count: int) -> np.ndarray:
        """Return the labels of images `first` to `first + count`, int64 (count,)."""
        if self.cycle is None:
            return label_stream(seed, first, count, self.shares)
        return np.array(self.cycle, np.int64)[np.arange(first, first + count) % len(self.cycle)]


@functools.lru_cache(maxsize=4)
def _block(seed: int, block: int) -> np.ndarray:
    return draws(seed, block, "evaluation labels").random(BLOCK)


def without_classes(key: str, names: Sequence[str] | None, why: str = "") -> str | None:
    """Return what is said of a network that takes labels where the data has fewer than two classes; else None.

    Args:
        names: the data's classes; None where it has no labels.
        why: where the labels are from, or why there are none, in words of the data's reader.
    """
    if names is not None and len(names) > 1:
        return None
    has = "none" if names is None else f"a single class, {names[0]}" if names else "no class"
    return (
        f"{key}: takes labels, and the data has {has}{f' ({why})' if why else ''}: choose data with two classes or "
        "more (data=digits, mnist, fashion_mnist, cifar10, or image_folder with a folder for each class), or a variant "
        "without labels (model=dcgan)"
    )


def taken_by(network: nn.Module) -> frozenset[str]:
    """Return what a network's forward pass takes beside latents or images, of `FURTHER`, by its signature."""
    return frozenset(inspect.signature(network.forward).parameters) & frozenset(FURTHER)
