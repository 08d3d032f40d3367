"""Arranges images as one enlarged grid."""

import numpy as np
from torch import Tensor
from torchvision.utils import make_grid

from gantry.data.alpha import on_checks

GRID = 8  # images along a side of the sample grid
TILE_PIXELS = 48  # least width to which an image of the grid is enlarged


def zoom(images: Tensor) -> int:
    """Return the number of times that `enlarged_grid` repeats each pixel of images (N, C, H, W)."""
    return max(1, -(-TILE_PIXELS // images.shape[-1]))


def enlarged_grid(images: Tensor, columns: int = GRID) -> np.ndarray:
    """Arrange uint8 images (N, C, H, W) as one uint8 picture (H', W', 3), enlarged without smoothing.

    Transparent ones (C is 4) are laid on a board of white and grey squares.
    """
    scale = zoom(images)
    grid = make_grid(on_checks(images.cpu()), nrow=columns, padding=1).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(grid.repeat(scale, 0).repeat(scale, 1))
