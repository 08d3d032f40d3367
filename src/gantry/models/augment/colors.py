"""The colours of ADA (Karras et al. 2020, appendix B), an affine map of colours for each image, and its cutout."""

import math

import torch
from torch import Tensor

from gantry.models.augment.uniform import chosen, integers, standard_normal

COLORS, CUTOUT = 10, 3  # uniform numbers that an image needs


def color_maps(uniform: Tensor, p: Tensor) -> Tensor:
    """Return affine maps of colours (B, 3, 4): rows for red, green and blue, of which the last column is added.

    One after the other, each with probability `p`: add N(0, 0.2); scale by 2^N(0, 0.5); mirror the luma, the mean of
    the three, by chance of a half; turn the hue by any angle; scale the saturation by 2^N(0, 1).

    Args:
        uniform: (B, 10).
        p: ().
    """
    draw = uniform[..., None, None].unbind(1)
    values, coins = draw[::2], draw[1::2]
    brightness = chosen(coins[0], p, standard_normal(values[0]) * 0.2, 0)
    contrast = chosen(coins[1], p, torch.exp2(standard_normal(values[1]) * 0.5), 1)
    mirror = chosen(coins[2], p, integers(values[2], 2), 0)
    angle = chosen(coins[3], p, (2 * values[3] - 1) * math.pi, 0)
    saturation = chosen(coins[4], p, torch.exp2(standard_normal(values[4])), 1)
    unit = torch.eye(4, device=uniform.device)
    maps = (unit[:3] + brightness * unit[3]) * contrast
    maps = maps - 2 * mirror * maps.mean(1, keepdim=True)
    # Rodrigues' formula about the axis (1, 1, 1) / sqrt 3: what is along it is the mean, and stays.
    luma = maps.mean(1, keepdim=True)
    across = (maps.roll(1, 1) - maps.roll(-1, 1)) / math.sqrt(3)
    maps = angle.cos() * maps + (1 - angle.cos()) * luma + angle.sin() * across
    return luma + (maps - luma) * saturation


def colored(images: Tensor, maps: Tensor) -> Tensor:
    """Apply maps (B, 3, 4) to the colours of images (B, 3, H, W); grey ones (B, 1, H, W) take the rows' mean.

    Raises:
        ValueError: the images have another number of channels.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(
            f"colours are those of images with 1 or 3 channels, not {channels}: choose pipeline=bg (or blit, geom, "
            "cutout), or data.channels=3"
        )
    if channels == 1:
        mean = maps.mean(1, keepdim=True)
        maps = torch.cat([mean[..., :3].sum(2, keepdim=True), mean[..., 3:]], 2)
    scaled = (maps[:, :, channel, None, None] * images[:, None, channel] for channel in range(channels))
    return sum(scaled, start=maps[:, :, -1, None, None])


def cut(images: Tensor, uniform: Tensor, p: Tensor) -> Tensor:
    """Set a rectangle of half the height and half the width, with its centre anywhere, to 0 with probability `p`.

    Args:
        images: (B, C, H, W).
        uniform: (B, 3).
        p: ().
    """
    coin, *centre = uniform[..., None].unbind(1)
    half = chosen(coin, p, torch.full_like(coin, 0.25), 0)
    across, down = (
        ((torch.arange(size, device=images.device) + 0.5) / size - middle).abs() >= half
        for size, middle in zip((images.shape[3], images.shape[2]), centre, strict=True)
    )
    return images * (across[:, None, None, :] | down[:, None, :, None])
