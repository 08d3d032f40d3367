"""Turns uniform numbers in [0, 1) into the random numbers of an augmentation, without a test on their values."""

import math

import torch
from torch import Tensor


def integers(uniform: Tensor, count: int) -> Tensor:
    """Return whole numbers, each of 0 to `count` - 1 equally likely, in the dtype of `uniform`."""
    return (uniform * count).floor().clamp(max=count - 1)  # the product may round up to `count`


def standard_normal(uniform: Tensor) -> Tensor:
    """Return standard normal numbers: the inverse of their distribution function. 0 gives -5.4, and not -inf."""
    return torch.erfinv(2 * uniform.clamp(min=2.0**-25) - 1) * math.sqrt(2)


def chosen(coin: Tensor, probability: Tensor | float, value: Tensor, otherwise: float) -> Tensor:
    """Return `value` where the uniform number `coin` is below `probability`, and `otherwise` elsewhere."""
    # torch copies a number among the arguments of `where` from the host, which cannot be captured in a CUDA graph.
    return torch.where(coin < probability, value, torch.full_like(value, otherwise))
