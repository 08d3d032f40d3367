"""Resizes bilinearly as TensorFlow 1 and the papers' Inception do, bit for bit equal to torch-fidelity."""

import torch
from torch import Tensor


def resize_like_tensorflow1(images: Tensor, side: int) -> Tensor:
    """Resize `images` (n, C, H, W), any type, to float32 (n, C, side, side), channels last in memory.

    Neither corners nor pixel centres are aligned (align_corners=False, half_pixel_centers=False):
    output pixel i lies at i * H / side. torch-fidelity interpolates along x for the upper and the lower neighbour
    of every output row; here each source row is interpolated once, which rounds the same and costs a fraction.
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
