"""Priors of latents as maps of standard normal values, so that all that draws latents goes on drawing normal ones."""

import math

import torch
from torch import Tensor

LEAST = 1e-4  # distance from the ends of (-1, 1) at which codes are cut off before they are mapped back


def uniform(z: Tensor) -> Tensor:
    """Map standard normal values of any shape to values uniform in (-1, 1): 2 Phi(z) - 1."""
    return torch.erf(z / math.sqrt(2))


def from_uniform(codes: Tensor) -> Tensor:
    """Return the values that `uniform` maps to codes, of any shape; those beyond (-1, 1) are cut off at its ends."""
    return math.sqrt(2) * torch.erfinv(codes.float().clamp(LEAST - 1, 1 - LEAST))
