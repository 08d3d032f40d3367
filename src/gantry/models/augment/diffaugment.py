"""DiffAugment (Zhao et al. 2020, Differentiable Augmentation for Data-Efficient GAN Training)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gantry.models.augment.pixels import read
from gantry.models.augment.uniform import integers

Policy = Literal["color", "translation", "cutout"]


class DiffAugment(nn.Module):
    """Changes colours, shifts images and cuts squares out of them, as the authors' code does.

    Args:
        policy: what is done, in this order: "color" (brightness, saturation, contrast), "translation" (by up to an
            eighth of the side, filled with grey), "cutout" (of a rectangle of half the sides, which may lie over the
            border). The authors use all three on few images, "translation" and "cutout" for BigGAN on CIFAR-10.
        differentiate: where R1 and R2 take their gradient: at the image "after" the augmentation, as in the authors'
            StyleGAN2, or at the image "before" it.

    Raises:
        ValueError: the policy has an unknown word, or one twice.
    """

    def __init__(self, policy: Sequence[Policy], differentiate: Literal["before", "after"] = "after") -> None:
        super().__init__()
        self.policy, self.differentiate = tuple(policy), differentiate
        if not self.policy or not {*self.policy} <= {*OPERATIONS} or len({*self.policy}) < len(self.policy):
            given = ", ".join(map(str, self.policy)) or "none"
            raise ValueError(f"policy: must be some of {', '.join(OPERATIONS)}, each once, not {given}")
        self.width = sum(OPERATIONS[name][1] for name in self.policy)

    def forward(self, images: Tensor, uniform: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] and (B, width) in [0, 1) to (B, C, H, W); colours may leave [-1, 1]."""
        x = images.float()
        for name, drawn in zip(self.policy, uniform.split([OPERATIONS[n][1] for n in self.policy], 1), strict=True):
            x = OPERATIONS[name][0](x, drawn)
        return x.to(images.dtype)


def color(images: Tensor, uniform: Tensor) -> Tensor:
    """Add -0.5 to 0.5, scale by 0 to 2 about each pixel's grey, then by 0.5 to 1.5 about the image's mean.

    Args:
        images: (B, C, H, W).
        uniform: (B, 3).
    """
    brightness, saturation, contrast = uniform[..., None, None, None].unbind(1)
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def translation(images: Tensor, uniform: Tensor, ratio: float = 0.125) -> Tensor:
    """Shift images up or down (first column) and left or right, by whole pixels, filled with 0.

    Args:
        images: (B, C, H, W).
        uniform: (B, 2).
        ratio: the largest shift, as a share of the side, rounded to pixels.
    """
    (row, down), (column, right) = (
        _shifted(drawn, size, int(size * ratio + 0.5))
        for drawn, size in zip(uniform.unbind(1), images.shape[2:], strict=True)
    )
    inside = down[:, None, :, None] & right[:, None, None, :]
    return _read_grid(images, row, column) * inside


def cutout(images: Tensor, uniform: Tensor, ratio: float = 0.5) -> Tensor:
    """Set a rectangle to 0 whose centre lies anywhere in the image.

    Args:
        images: (B, C, H, W).
        uniform: (B, 2).
        ratio: its height and width, as shares of the image's, rounded to pixels.
    """
    rows, columns = (
        _within(drawn, size, int(size * ratio + 0.5))
        for drawn, size in zip(uniform.unbind(1), images.shape[2:], strict=True)
    )
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


class FlipTranslate(nn.Module):
    """The view of consistency regularisation: a mirror image by chance of a half, then a shift with reflected borders.

    Zhang et al. 2020, Consistency Regularization for GANs, section 3; the figures are those of StudioGAN.

    Args:
        ratio: the largest shift, as a share of the side, rounded down to pixels; below 1.
        differentiate: as of `DiffAugment`.
    """

    width = 3

    def __init__(self, ratio: float = 0.125, differentiate: Literal["before", "after"] = "after") -> None:
        super().__init__()
        self.ratio, self.differentiate = ratio, differentiate

    def forward(self, images: Tensor, uniform: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] and (B, 3) in [0, 1) to (B, C, H, W)."""
        flip, *shifts = uniform.unbind(1)
        row, column = (
            _reflected(_moved(drawn, size, int(size * self.ratio)), size)
            for drawn, size in zip(shifts, images.shape[2:], strict=True)
        )
        # Flip first: what is read at column x of the mirror image lies at W - 1 - x.
        column = torch.where(flip[:, None] < 0.5, images.shape[3] - 1 - column, column)
        return _read_grid(images, row, column)


def _moved(uniform: Tensor, size: int, most: int) -> Tensor:
    """Return where each of `size` pixels (B, size) is read, shifted by -most to most; it may lie outside."""
    shift = integers(uniform, 2 * most + 1).long() - most
    return torch.arange(size, device=uniform.device) + shift[:, None]


def _shifted(uniform: Tensor, size: int, most: int) -> tuple[Tensor, Tensor]:
    place = _moved(uniform, size, most)
    return place.clamp(0, size - 1), (place >= 0) & (place < size)


def _reflected(place: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - place.abs()).abs()


def _within(uniform: Tensor, size: int, length: int) -> Tensor:
    """Return which of `size` pixels (B, size) lie in a stretch of `length` about a random pixel."""
    start = integers(uniform, size + 1 - length % 2).long()[:, None] - length // 2
    place = torch.arange(size, device=uniform.device)
    return (place >= start) & (place < start + length)


def _read_grid(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Read images (B, C, H, W) at rows (B, H) and columns (B, W)."""
    index = row[:, :, None] * images.shape[3] + column[:, None, :]
    return read(images, index.flatten(1)).unflatten(2, images.shape[2:])


OPERATIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {  # with the uniform numbers that they need
    "color": (color, 3),
    "translation": (translation, 2),
    "cutout": (cutout, 2),
}
