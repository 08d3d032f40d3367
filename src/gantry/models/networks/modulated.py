"""Convolutions whose input channels a style scales (Karras et al. 2020, StyleGAN2, section 2.2)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from .equalised import EqualisedLinear, activated
from .resample import Blur

EPSILON = 1e-8  # added to the squared norm of unscaled weights


class ModulatedConv2d(nn.Conv2d):
    """A convolution of an equalised learning rate whose input channels are scaled by an affine map of w.

    The inputs are scaled and not the weights, so that one convolution serves the whole batch, of any size.

    Args:
        before, after: channels.
        w_dim: length of w.
        kernel: side of the kernel, odd; the map keeps its size.
        up: convolve with stride 1/2, and smooth the map afterwards.
    """

    def __init__(self, before: int, after: int, w_dim: int, kernel: int = 3, up: bool = False) -> None:
        super().__init__(before, after, kernel, padding=kernel // 2)
        self.scale = 1 / math.sqrt(before * kernel**2)
        self.affine = EqualisedLinear(w_dim, before, bias=1.0)
        self.up = up
        self.blur = Blur(padding=1, gain=4.0) if up else nn.Identity()
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def scaled(self, x: Tensor, styles: Tensor) -> Tensor:
        """Convolve x (B, before, H, W) by weights that styles (B, before) scale: (B, after, H, W), or twice H and W."""
        x, weight = x * styles[:, :, None, None], self.scale * self.weight
        if self.up:
            return self.blur(conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        return conv2d(x, weight, padding=self.padding)


class ToImage(ModulatedConv2d):
    """A 1x1 modulated convolution to an image's channels, without demodulation, noise or activation."""

    def __init__(self, before: int, channels: int, w_dim: int) -> None:
        super().__init__(before, channels, w_dim, kernel=1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:  # type: ignore[override]
        """(B, before, H, W) and w (B, w_dim) to (B, channels, H, W)."""
        return self.scaled(x, self.affine(w)) + self.bias[:, None, None]  # type: ignore[index]


class StyledConv2d(ModulatedConv2d):
    """A 3x3 modulated and demodulated convolution, noise, a bias, and `activated`.

    Args:
        before, after, w_dim, up: see `ModulatedConv2d`.
        size: (H, W) of its output.
        noise: add one noise map to all channels, times a learned strength that starts at 0.
    """

    noise: Tensor  # (H, W)

    def __init__(
        self, before: int, after: int, w_dim: int, size: tuple[int, int], up: bool = False, noise: bool = True
    ) -> None:
        super().__init__(before, after, w_dim, up=up)
        self.strength = nn.Parameter(torch.zeros(())) if noise else None
        if noise:
            self.register_buffer("noise", torch.randn(size))

    def demodulation(self, styles: Tensor) -> Tensor:
        """Return 1 / |w| for each image and output channel (equation 3): styles (B, before) to (B, after).

        Weights scaled by `scale`, a style and this have a norm of 1.
        """
        energy = (self.scale * self.weight).square().sum((2, 3))
        return (styles.square() @ energy.T + EPSILON * self.scale**2).rsqrt()

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """(B, before, H, W) and w (B, w_dim) to (B, after, H, W), or twice H and W.

        Args:
            noise: normal values (B, 1, H, W) of the output's size; None: the constant map, one for all images.
        """
        styles = self.affine(w)
        x = self.scaled(x, styles) * self.demodulation(styles)[:, :, None, None]
        if self.strength is not None:
            x = x + self.strength * (self.noise if noise is None else noise)
        return activated(x + self.bias[:, None, None])  # type: ignore[index]
