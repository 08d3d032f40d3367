"""Arranges images as one enlarged grid."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from gantry.data.alpha import on_checks

GRID = 8  # images along a side of the sample grid
TILE_PIXELS = 48  # least width to which an image of the grid is enlarged
LARGEST = 128  # pixels of an image's longer side, above which it is reduced in pictures of a run


def zoom(images: Tensor) -> int:
    """Return the number of times that `enlarged_grid` repeats each pixel of images (N, C, H, W)."""
    return max(1, -(-TILE_PIXELS // images.shape[-1]))


def layout(images: Tensor, columns: int = GRID) -> dict[str, int]:
    """Return what a grid's file says of it: the `zoom` of its pixels, and its `rows` where these are not `GRID`."""
    rows = -(-len(images) // columns)
    return {"zoom": zoom(images)} | ({} if rows == GRID else {"rows": rows})


def reduced(images: Tensor, most: int = LARGEST) -> Tensor:
    """Reduce uint8 images (N, C, H, W) to a longer side of `most` pixels, by area; smaller ones are unchanged."""
    longest = max(images.shape[-2:])
    if longest <= most:
        return images
    size = [max(1, round(length * most / longest)) for length in images.shape[-2:]]
    return torch.cat([interpolate(part.float(), size, mode="area").round().to(torch.uint8) for part in images.split(8)])


def enlarged_grid(images: Tensor, columns: int = GRID) -> np.ndarray:
    """Arrange uint8 images (N, C, H, W) as one uint8 picture (H', W', 3), enlarged without smoothing.

    Transparent ones (C is 4) are laid on a board of white and grey squares.
    """
    scale = zoom(images)
    grid = make_grid(on_checks(images.cpu()), nrow=columns, padding=1).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(grid.repeat(scale, 0).repeat(scale, 1))
