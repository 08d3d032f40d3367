"""Lays transparent images on one ground before they are measured, since extractors take colours alone.

Real and generated images are laid on the same ground, so that their scores are those of pictures as they are seen on
it, and are the same as without alpha where nothing is transparent. The settings of a measurement name the ground.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from gantry.data.alpha import GROUND, RGBA, Ground, on_ground
from gantry.data.decoded_cache import kept, write
from gantry.data.images import ImageSet
from gantry.evaluation.features import Source

AT_ONCE = 512  # images


def measured(data: ImageSet, cache: Path) -> ImageSet:
    """Return `data` as metrics see it: its three colours on its ground where it has alpha, mapped from `cache`.

    Its digest stays that of the images with their alpha. Data without alpha is returned as it is.

    Raises:
        UserError: the cache cannot be written.
    """
    if data.images.shape[1] != RGBA:
        return data
    shape = (3, *data.images.shape[2:])
    ground = data.ground or GROUND
    parts = (on_ground(np.asarray(data.images[at : at + AT_ONCE]), ground) for at in range(0, len(data), AT_ONCE))
    images, _ = kept(cache, [f"on {ground}", data.digest], lambda entry: write(entry, len(data), shape, parts, dict))
    return replace(data, images=images, ground=ground)


@dataclass(frozen=True)
class OnGround:
    """The images of a source as metrics see them, on `ground`."""

    source: Source
    ground: Ground

    def __len__(self) -> int:
        return len(self.source)

    def __call__(self, start: int, count: int) -> Tensor:
        return on_ground(self.source(start, count), self.ground)

    def of(self, numbers: np.ndarray) -> Tensor:
        return on_ground(self.source.of(numbers), self.ground)
