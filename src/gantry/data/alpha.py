"""Images with transparency: four channels, whose colours are multiplied by their alpha while they are in memory.

Files hold straight alpha: colours as they would be if opaque. In an `ImageSet`, in a network and in its output colours
are premultiplied, red * alpha / 255 and so on: then every wholly transparent pixel is the same, and a mean of pixels,
as in resizing, is the mean of what is seen. Porter and Duff 1984, Compositing Digital Images.
"""

from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

RGBA = 4  # channels of images with transparency
Ground = Literal["white", "black"]
GROUND: Ground = "white"  # what they are laid on where nothing else is said
SAID = "red, green, blue and alpha; colours multiplied by alpha"  # of the four channels, for whoever uses a generator
Images = TypeVar("Images", np.ndarray, "Tensor")


def premultiply(images: np.ndarray) -> np.ndarray:
    """Multiply colours by alpha, rounded: uint8 (n, 4, H, W), straight to premultiplied."""
    made = images.copy()
    made[:, :3] = (images[:, :3].astype(np.uint16) * images[:, 3:] + 127) // 255
    return made


def straighten(images: np.ndarray) -> np.ndarray:
    """Divide colours by alpha, rounded: uint8 (n, 4, H, W), premultiplied to straight; black where alpha is 0.

    `premultiply` gives back the images exactly, where no colour is above its alpha; such a one counts as its alpha.
    """
    alpha = images[:, 3:].astype(np.uint16)
    colours = np.minimum(images[:, :3], alpha)
    made = images.copy()
    made[:, :3] = (255 * colours + alpha // 2) // np.maximum(alpha, 1)
    return made


def within_alpha(image: np.ndarray) -> np.ndarray:
    """Return uint8 (C, H, W) with no premultiplied colour above its alpha, which Lanczos makes at edges."""
    if len(image) != RGBA:
        return image
    return np.concatenate([np.minimum(image[:3], image[3:]), image[3:]])


def on_ground(images: Images, ground: Ground = GROUND) -> Images:
    """Lay premultiplied images on one colour: uint8 (n, 4, H, W) to (n, 3, H, W); others are returned as they are.

    A colour above its alpha, as a network may make it, counts as its alpha.
    """
    if images.shape[1] != RGBA:
        return images
    alpha = images[:, 3:]
    colours = images[:, :3].clip(max=alpha)
    return colours + (255 - alpha) if ground == "white" else colours


def on_checks(images: "Tensor") -> "Tensor":
    """Lay premultiplied images on a board of white and light grey squares, eight along the shorter side.

    uint8 (n, 4, H, W) to (n, 3, H, W), each pixel rounded; others are returned as they are. On it white differs from
    transparent, as on no single colour.
    """
    import torch

    if images.shape[1] != RGBA:
        return images
    height, width = images.shape[2:]
    side = max(1, min(height, width) // 8)
    rows, columns = (torch.arange(length, device=images.device) // side for length in (height, width))
    board = torch.where((rows[:, None] + columns) % 2 == 0, 255, 204)
    alpha = images[:, 3:].int()
    return (images[:, :3].int().clip(max=alpha) + (board * (255 - alpha) + 127) // 255).to(torch.uint8)
