"""Layers of an equalised learning rate (Karras et al. 2018, Progressive Growing of GANs, section 4.1).

Weights start at N(0, 1) and are scaled as they are used, so that Adam, whose steps do not depend on the scale of a
gradient, changes all layers at the same relative rate.
"""

import math

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
    """

    def __init__(self, before: int, after: int, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__(before, after)
        self.rate, self.scale = rate, rate / math.sqrt(before)
        nn.init.normal_(self.weight, 0.0, 1 / rate)
        nn.init.constant_(self.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before) to (B, after)."""
        return linear(x, self.scale * self.weight, self.rate * self.bias)


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
