"""The geometric part of ADA (Karras et al. 2020, appendix B): all transformations of an image in one resampling.

An affine map says for each place of the result, relative to the image's centre and in pixels, where it lies in the
image. Images are reflected at their borders, doubled in size by the wavelet sym6, read between pixels, and halved.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from gantry.models.augment.pixels import bilinear
from gantry.models.augment.uniform import chosen, integers, standard_normal

BLIT, GEOMETRY = 7, 11  # uniform numbers that an image needs
# Low-pass filter of the least asymmetric wavelet of 6 vanishing moments (Daubechies 1992, Ten Lectures, table 6.3).
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
REACH = len(SYM6) // 4  # pixels on either side that the filter reaches


class Placement:
    """An affine map for each image of a batch: `x`, `y` and `shift` are the columns (B, 2) of its matrix.

    A method multiplies the matrix by another from the right, so the last one called acts first on a place of the
    result. Its arguments are (B,).
    """

    def __init__(self, count: int, device: torch.device) -> None:
        unit = torch.eye(2, device=device).expand(count, 2, 2)
        self.x, self.y, self.shift = unit[:, 0], unit[:, 1], torch.zeros(count, 2, device=device)

    def scale(self, horizontal: Tensor, vertical: Tensor) -> None:
        """Multiply places by these."""
        self.x, self.y = self.x * horizontal[:, None], self.y * vertical[:, None]

    def rotate(self, cosine: Tensor, sine: Tensor) -> None:
        """Turn places by an angle, from the x axis, which points right, to the y axis, which points down."""
        cosine, sine = cosine[:, None], sine[:, None]
        self.x, self.y = self.x * cosine + self.y * sine, self.y * cosine - self.x * sine

    def translate(self, right: Tensor, down: Tensor) -> None:
        """Add pixels to places."""
        self.shift = self.shift + self.x * right[:, None] + self.y * down[:, None]


def blit(placement: Placement, uniform: Tensor, p: Tensor, height: int, width: int) -> None:
    """Mirror, turn by multiples of 90 degrees, and shift by up to an eighth of the side in whole pixels.

    Args:
        placement: the map so far; changed.
        uniform: (B, 7).
        p: the probability of each, ().
        height, width: of the images.
    """
    flip, flip_coin, turn, turn_coin, right, down, shift_coin = uniform.unbind(1)
    mirror = chosen(flip_coin, p, integers(flip, 2), 0)
    placement.scale(1 - 2 * mirror, torch.ones_like(mirror))
    angle = math.pi / 2 * chosen(turn_coin, p, integers(turn, 4), 0)
    placement.rotate(angle.cos().round(), angle.sin().round())
    right, down = (chosen(shift_coin, p, (2 * drawn - 1) * 0.125, 0) for drawn in (right, down))
    placement.translate(-(right * width).round(), -(down * height).round())


def geometry(placement: Placement, uniform: Tensor, p: Tensor, height: int, width: int) -> None:
    """Scale by 2^N(0, 0.2), turn, scale one side by that factor and the other by its inverse, turn, shift by N(0, 1/8).

    Each of the two turns, by any angle, has such a probability that either is done with probability `p`.

    Args:
        placement: the map so far; changed.
        uniform: (B, 11).
        p: the probability of each, ().
        height, width: of the images.
    """
    draw = iter(uniform.unbind(1))
    size = _factor(next(draw), next(draw), p)
    placement.scale(size, size)
    either = 1 - (1 - p).clamp(0, 1).sqrt()
    _turn(placement, next(draw), next(draw), either)
    stretch = _factor(next(draw), next(draw), p)
    placement.scale(stretch, 1 / stretch)
    _turn(placement, next(draw), next(draw), either)
    right, down, coin = draw
    right, down = (chosen(coin, p, standard_normal(drawn) * 0.125, 0) for drawn in (right, down))
    placement.translate(-right * width, -down * height)


def _factor(drawn: Tensor, coin: Tensor, p: Tensor) -> Tensor:
    return 1 / chosen(coin, p, torch.exp2(standard_normal(drawn) * 0.2), 1)


def _turn(placement: Placement, drawn: Tensor, coin: Tensor, p: Tensor) -> None:
    angle = chosen(coin, p, (2 * drawn - 1) * math.pi, 0)
    placement.rotate(angle.cos(), angle.sin())


def resampled(images: Tensor, placement: Placement) -> Tensor:
    """Return images (B, C, H, W), float32, as placed.

    The authors' code reflects a border as wide as the batch needs, so that shapes depend on values. Here it has the
    largest width that theirs can take, one pixel less than the image on each side, so that the doubled image takes 36
    times the memory of the image. Beyond the border an image is grey (0). The filter is not symmetric: what is mirrored
    or turned lies 0.1 pixels further, and its finest detail changes. What is shifted by whole pixels does not change.
    """
    height, width = images.shape[2:]
    doubled = _doubling(height, images.device) @ images @ _doubling(width, images.device).T
    across, down = (_centred(size, images.device) for size in (width, height))
    x, y = (
        2 * (of_x * across + of_y * down[:, None] + shift) + size / 2 - 1
        for of_x, of_y, shift, size in zip(
            *(column[..., None, None].unbind(1) for column in (placement.x, placement.y, placement.shift)),
            (doubled.shape[3], doubled.shape[2]),
            strict=True,
        )
    )
    placed = bilinear(doubled, x.flatten(1), y.flatten(1)).unflatten(2, x.shape[1:])
    return _halving(height, images.device) @ placed @ _halving(width, images.device).T


def _centred(size: int, device: torch.device) -> Tensor:
    """Return the places of the doubled result's pixels, in pixels of the image from its centre."""
    return (torch.arange(1, 2 * size + 4 * REACH + 1, device=device) - size) / 2 - REACH


@cache
def _doubling(size: int, device: torch.device) -> Tensor:
    """Return the matrix that reflects a line of pixels at both ends, as far as can be, and doubles it."""
    with torch.inference_mode(False):
        place = torch.arange(1 - size, 2 * size - 1, device="cpu")
        unit = torch.eye(size, dtype=torch.float64, device="cpu")
        reflected = unit[:, (size - 1) - ((size - 1) - place.abs()).abs()]
        stretched = torch.stack([reflected, torch.zeros_like(reflected)], 2).flatten(1)
        kernel = 2 * _low_pass().flip(0)
        doubled = conv1d(pad(stretched, (len(SYM6) // 2, len(SYM6) // 2 - 1))[:, None], kernel[None, None])
        return doubled[:, 0].T.float().contiguous().to(device)


@cache
def _halving(size: int, device: torch.device) -> Tensor:
    """Return the matrix that halves a line of pixels and crops it by `REACH` at both ends: the inverse of doubling."""
    with torch.inference_mode(False):
        unit = torch.eye(2 * size + 4 * REACH, dtype=torch.float64, device="cpu")
        halved = conv1d(unit[:, None, 1:-1], _low_pass()[None, None], stride=2)
        return halved[:, 0].T.float().contiguous().to(device)


def _low_pass() -> Tensor:
    taps = torch.tensor(SYM6, dtype=torch.float64, device="cpu")
    return taps / taps.sum()
