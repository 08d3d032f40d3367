"""What networks that grow have in common (Karras et al. 2018, Progressive Growing of GANs, section 2)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from .blocks import UnsupportedError


class Growing(nn.Module):
    """A network of which, for smaller images, only a part is computed.

    Its images always have their full size. At a level of detail of 0 they have all their pixels; at a whole number n a
    square of 2^n x 2^n pixels has one value; in between, the images of the two levels are mixed. The whole part of the
    level decides which layers are computed, and is a number of the host; its fraction is read on the device.

    Args:
        levels: the largest level, that of the smallest images.

    Attributes:
        level: whole part of the level of detail.
        fades: whether it has a fraction.
        lod: the level of detail, a buffer (), in [0, levels]; 0 at first.
    """

    lod: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.level, self.fades, self._lod = 0, False, 0.0
        self.register_buffer("lod", torch.zeros(()))

    def set_lod(self, lod: float) -> None:
        """Set the level of detail.

        Raises:
            UnsupportedError: it is not in [0, levels].
        """
        if lod != self._lod:
            self._note(lod)
            self.lod.fill_(lod)

    def mixed(self, images: Tensor, smaller: Tensor) -> Tensor:
        """Return images of the level, with as much of those of the level above it as the fraction says."""
        return images + (smaller - images) * (self.lod - self.level).to(images.dtype)

    def _note(self, lod: float) -> None:
        if not 0 <= lod <= self.levels:
            raise UnsupportedError(f"lod: a level of detail from 0 to {self.levels}, not {lod}")
        self.level, self.fades, self._lod = *split(lod), lod

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Take the level of detail that is loaded."""
        super()._load_from_state_dict(*arguments)
        if not self.lod.is_meta:
            try:
                self._note(float(self.lod))
            except UnsupportedError as error:
                arguments[-1].append(str(error))  # with what else does not fit, in one RuntimeError


def split(lod: float) -> tuple[int, bool]:
    """Return the whole part of a level of detail, and whether it has a fraction."""
    return int(lod), lod % 1 > 0


def shrunk(images: Tensor, factor: int) -> Tensor:
    """Return images (B, C, H, W) with the mean of each square of factor x factor pixels in its place."""
    return images if factor == 1 else avg_pool2d(images, factor)


def enlarged(images: Tensor, factor: int) -> Tensor:
    """Return images (B, C, H, W) with factor x factor pixels of its value in the place of each."""
    return images if factor == 1 else interpolate(images, scale_factor=factor, mode="nearest")
