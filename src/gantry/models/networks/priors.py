"""Priors of latents as maps of standard normal values, so that all that draws latents goes on drawing normal ones."""

import math

import torch
from torch import Tensor

FINEST = 2.0**-25  # half of the least number above 0 of those drawn uniformly in float32
LEAST = 1e-4  # distance from the ends of (-1, 1) at which codes are cut off before they are mapped back


def uniform(z: Tensor, bounds: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Return numbers that are uniform in [low, high] of standard normal ones: low + (high - low) Phi(z)."""
    low, high = bounds
    return low + (high - low) * 0.5 * (1 + torch.erf(z * 0.5**0.5))


def from_uniform(codes: Tensor) -> Tensor:
    """Return the values that `uniform` maps to codes in (-1, 1), of any shape; those beyond are cut off at its ends."""
    return math.sqrt(2) * torch.erfinv(codes.float().clamp(LEAST - 1, 1 - LEAST))


def standard_normal(numbers: Tensor) -> Tensor:
    """Return standard normal values of uniform numbers in [0, 1), of any shape: the inverse of their distribution."""
    return torch.special.ndtri(numbers.float().clamp(min=FINEST))
