"""Computes paths through latent space by spherical interpolation."""

import torch
from torch import Tensor

from gantry.core.errors import UserError

TINY = 1e-12  # below it a float64 direction is rounding


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Interpolate spherically: the direction moves along the great circle at constant speed, the norm linearly.

    The length of a normal latent is nearly always close to the square root of its dimension. Halfway along a straight
    line between two it is shorter by a factor of sqrt 2, which does not occur in training (White 2016, Sampling
    Generative Networks; Shoemake 1985, Animating Rotation with Quaternion Curves). For equal norms this is their
    formula.

    Args:
        a, b: shape (..., z_dim), broadcast against each other. Where one is zero, which has no direction, the path is
            the straight line; between opposite vectors, which many great circles connect, one of them is fixed.
        t: 0 (a) to 1 (b); a tensor is broadcast against (..., 1).

    Returns:
        Shape (..., z_dim), the dtype of `a`; computed in float64.
    """
    first, second = torch.broadcast_tensors(a.double(), b.double())
    t = torch.as_tensor(t, dtype=torch.float64, device=a.device)
    lengths = first.norm(dim=-1, keepdim=True), second.norm(dim=-1, keepdim=True)
    start, end = (vector / length.clamp_min(TINY) for vector, length in zip((first, second), lengths, strict=True))
    cosine = (start * end).sum(-1, keepdim=True)
    aside = end - cosine * start
    sine = aside.norm(dim=-1, keepdim=True)
    opposite = (sine < TINY) & (cosine < 0)
    aside = torch.where(opposite, _perpendicular(start), aside / sine.clamp_min(TINY))
    angle = torch.atan2(sine, cosine)
    turned = torch.cos(t * angle) * start + torch.sin(t * angle) * aside
    straight = torch.minimum(*lengths) < TINY
    path = torch.where(straight, torch.lerp(first, second, t), torch.lerp(*lengths, t) * turned)
    return path.to(a.dtype)


def walk(keys: Tensor, frames: int, closed: bool = True) -> Tensor:
    """Return the latents of a film that passes through every key on great circles, see `slerp`.

    Args:
        keys: shape (K, ..., z_dim), K at least 2; every further axis but the last holds a walk of its own.
        frames: from one key to the next, at least 1; a frame is on every key.
        closed: continue from the last key to one frame before the first, so that the film loops without a jump.

    Returns:
        Shape (K * frames, ..., z_dim), or (K - 1) * frames + 1 and ending on the last key if not closed.

    Raises:
        UserError: fewer than two keys, or `frames` below 1.
    """
    if len(keys) < 2:
        raise UserError(f"a walk passes through at least 2 latents, not {len(keys)}")
    if frames < 1:
        raise UserError(f"a walk takes at least 1 frame from one latent to the next, not {frames}")
    t = torch.arange(frames, dtype=torch.float64, device=keys.device) / frames
    t = t.view(-1, *(1,) * (keys.dim() - 1))
    path = slerp(keys[:, None], keys.roll(-1, 0)[:, None], t).flatten(0, 1)
    return path if closed else path[: (len(keys) - 1) * frames + 1]


def _perpendicular(unit: Tensor) -> Tensor:
    """Return a unit vector orthogonal to each of (..., z_dim), towards its smallest axis; zero for z_dim 1."""
    axis = torch.zeros_like(unit).scatter_(-1, unit.abs().argmin(-1, keepdim=True), 1.0)
    across = axis - (axis * unit).sum(-1, keepdim=True) * unit
    return across / across.norm(dim=-1, keepdim=True).clamp_min(TINY)
