"""Resizes bilinearly as TensorFlow 1 and the papers' Inception do: neither corners nor pixel centres are aligned.

Output pixel i lies at i * H / side (align_corners=False, half_pixel_centers=False).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_like_tensorflow1(images: Tensor, side: int) -> Tensor:
    """Resize `images` (n, C, H, W), any type, to float32 (n, C, side, side), channels last in memory.

    Bit for bit equal to torch-fidelity, which interpolates along x for the upper and the lower neighbour of every
    output row; here each source row is interpolated once, which rounds the same and costs a fraction.
    """
    pixels = images.permute(0, 2, 3, 1).float()
    return _stretch(_stretch(pixels, 2, side), 1, side).permute(0, 3, 1, 2)


def _stretch(pixels: Tensor, dim: int, side: int) -> Tensor:
    size = pixels.shape[dim]
    at = torch.arange(side, dtype=torch.float32, device=pixels.device) * torch.tensor(size / side)
    low = at.long()
    weight = (at - low.float()).view(-1, *[1] * (pixels.ndim - dim - 1))
    first = pixels.index_select(dim, low)
    second = pixels.index_select(dim, (low + 1).clamp_max(size - 1))
    return second.sub_(first).mul_(weight).add_(first)


def interpolate_like_tensorflow1(images: Tensor, side: int) -> Tensor:
    """Resize float32 `images` (n, C, H, W) to (n, C, side, side), as `resize_like_tensorflow1` up to rounding.

    In one kernel, which writes every output once: the least that a GPU can do. Interpolation with aligned corners
    places output pixel i of side + 1 at i * H / side where the image has one more row and column at its end, a copy of
    the last; the last output row and column are left out.
    """
    padded = F.pad(images, (0, 1, 0, 1), mode="replicate")
    return F.interpolate(padded, (side + 1, side + 1), mode="bilinear", align_corners=True)[..., :side, :side]
