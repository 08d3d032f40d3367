"""Priors of latents as maps of standard normal values, so that all that draws latents goes on drawing normal ones."""

import math

import torch
from torch import Tensor

FINEST = 2.0**-25  # half the distance of two uniform numbers in float32
LEAST = 1e-4  # distance from the ends of (-1, 1) at which codes are cut off before they are mapped back


def to_uniform(z: Tensor) -> Tensor:
    """Map standard normal values of any shape to values uniform in (-1, 1): 2 Phi(z) - 1."""
    return torch.erf(z / math.sqrt(2))


def from_uniform(codes: Tensor) -> Tensor:
    """Return the values that `to_uniform` maps to codes, of any shape; those beyond (-1, 1) are cut off at its ends."""
    return math.sqrt(2) * torch.erfinv(codes.float().clamp(LEAST - 1, 1 - LEAST))


def standard_normal(uniform: Tensor) -> Tensor:
    """Return standard normal values of uniform numbers in [0, 1), of any shape: the inverse of their distribution."""
    return math.sqrt(2) * torch.erfinv(2 * uniform.float().clamp(FINEST, 1 - FINEST) - 1)
