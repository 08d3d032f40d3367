"""Doubling, halving and smoothing of maps by the filter [1, 3, 3, 1] (Karras et al. 2020, StyleGAN2, appendix B).

A map counts as zero outside of its sides. Everything is a convolution of each channel by itself, so it can be
differentiated twice, and repeats where torch's convolutions do.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

TAPS = (1.0, 3.0, 3.0, 1.0)


class Blur(nn.Module):
    """Smooths each channel by the outer product of [1, 3, 3, 1] / 8 with itself.

    Args:
        padding: zeros put at each side; the map grows by 2 * padding - 3 pixels.
        gain: times the result.
    """

    taps: Tensor  # (1, 1, 4, 4)

    def __init__(self, padding: int, gain: float = 1.0) -> None:
        super().__init__()
        self.padding = padding
        taps = torch.tensor(TAPS) / sum(TAPS)
        self.register_buffer("taps", gain * torch.outer(taps, taps)[None, None], persistent=False)

    def kernel(self, channels: int) -> Tensor:
        """Return the same filter for each channel: (channels, 1, 4, 4)."""
        return self.taps.expand(channels, -1, -1, -1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H + 2 * padding - 3, W + 2 * padding - 3)."""
        return conv2d(x, self.kernel(x.shape[1]), padding=self.padding, groups=x.shape[1])


class Upsample(Blur):
    """Doubles maps by linear interpolation: a pixel is 9/16, 3/16, 3/16 and 1/16 of the four nearest."""

    def __init__(self) -> None:
        super().__init__(padding=1, gain=4.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return conv_transpose2d(x, self.kernel(x.shape[1]), stride=2, padding=self.padding, groups=x.shape[1])


class Downsample(Blur):
    """Halves maps: smooths them, and keeps each second pixel."""

    def __init__(self) -> None:
        super().__init__(padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2); H and W are even."""
        return conv2d(x, self.kernel(x.shape[1]), stride=2, padding=self.padding, groups=x.shape[1])
