"""Layers of an equalised learning rate (Karras et al. 2018, Progressive Growing of GANs, section 4.1), and its norms.

Weights start at N(0, 1) and are scaled as they are used, so that Adam, whose steps do not depend on the scale of a
gradient, changes all layers at the same relative rate.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu, linear

from .resample import Blur

SLOPE = 0.2


def activated(x: Tensor) -> Tensor:
    """Return sqrt(2) * LeakyReLU(x), which keeps the variance of values around zero about as it is."""
    return math.sqrt(2) * leaky_relu(x, SLOPE)


class EqualisedLinear(nn.Linear):
    """A dense layer of an equalised learning rate.

    Args:
        before, after: numbers of inputs and outputs.
        rate: times the learning rate of other layers.
        bias: initial value of the biases.
        gain: times the layer's output, but for the biases.
    """

    def __init__(self, before: int, after: int, rate: float = 1.0, bias: float = 0.0, gain: float = 1.0) -> None:
        super().__init__(before, after)
        self.rate, self.scale = rate, gain * rate / math.sqrt(before)
        nn.init.normal_(self.weight, 0.0, 1 / rate)
        nn.init.constant_(self.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before) to (B, after)."""
        return linear(x, self.scale * self.weight, self.rate * self.bias)


class ScaledConv2d(nn.Conv2d):
    """A convolution of an equalised learning rate that keeps the size of a map, and nothing after it.

    Args:
        before, after: channels.
        kernel: side of the kernel, odd.
        gain: times the output, but for the biases.
    """

    def __init__(self, before: int, after: int, kernel: int, gain: float = 1.0) -> None:
        super().__init__(before, after, kernel, padding=kernel // 2)
        self.scale = gain / math.sqrt(before * kernel**2)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H, W)."""
        return conv2d(x, self.scale * self.weight, self.bias, padding=self.padding)


class EqualisedConv2d(nn.Conv2d):
    """A convolution of an equalised learning rate, which halves the map if `down`, and `activated`.

    Args:
        before, after: channels.
        kernel: side of the kernel, odd; the map keeps its size.
        down: smooth the map before, and convolve at each second pixel (Karras et al. 2020, StyleGAN2, appendix B).
    """

    def __init__(self, before: int, after: int, kernel: int, down: bool = False) -> None:
        super().__init__(before, after, kernel, stride=2 if down else 1, padding=0 if down else kernel // 2)
        self.scale = 1 / math.sqrt(before * kernel**2)
        self.blur = Blur(padding=kernel // 2 + 1) if down else nn.Identity()
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H, W), or half of H and W."""
        x = conv2d(self.blur(x), self.scale * self.weight, self.bias, self.stride, self.padding)
        return activated(x)


def normalised(x: Tensor) -> Tensor:
    """Divide each vector of x (B, F), or of each pixel of x (B, F, H, W), by the root of its mean square."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def with_deviation(x: Tensor, group: int, neighbours: bool = False) -> Tensor:
    """Append a channel, the mean over pixels and channels of the standard deviation of a group of images.

    (Karras et al. 2018, Progressive Growing of GANs, section 3.) A group has the largest number of images, up to
    `group`, that divides the batch, so that batches of any size have groups.

    Args:
        x: (B, C, H, W).
        group: images of a group.
        neighbours: images of a group follow each other, so that ranks whose shares are multiples of `group` have the
            groups of one process; False: every n-th image is of a group, as in the official codes.

    Returns:
        (B, C + 1, H, W).
    """
    size = max(count for count in range(1, group + 1) if len(x) % count == 0)
    groups = x.unflatten(0, (-1, size)).transpose(0, 1) if neighbours else x.unflatten(0, (size, -1))
    deviation = ((groups - groups.mean(0)).square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))
    each = deviation[:, None].expand(-1, size).flatten() if neighbours else deviation.repeat(size)
    return torch.cat([x, each[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)
