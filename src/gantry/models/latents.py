"""The latents that images are generated from: for each seed an endless stream, each vector a function of its number."""

import functools

import numpy as np

from gantry.core.randomness import draws

BLOCK = 512  # vectors drawn at a time
TILE = 64  # images made at a time, whose numbers begin at a multiple of it: rounding depends on the batch size


def stream(seed: int, first: int, count: int, z_dim: int, truncation: float | None = None) -> np.ndarray:
    """Vectors `first` to `first + count` of the stream of `seed`.

    Args:
        seed: 0 to 2**63 - 1.
        first: the first one's number, at least 0.
        count: how many.
        z_dim: length of a vector.
        truncation: the values are of a normal distribution cut off at plus and minus this, above 0: images nearer to
            the typical one, less varied (Brock et al. 2019, Large Scale GAN Training, section 3.1). A value that is
            not truncated follows from the same uniform number, so that a seed's image changes smoothly with it.

    Returns:
        Standard normal values, float32 (count, z_dim).
    """
    blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1) if count else range(0)
    drawn = [_block(seed, block, z_dim) for block in blocks]
    begin = first % BLOCK
    z = np.concatenate(drawn or [np.empty((0, z_dim), np.float32)])[begin : begin + count]
    return z if truncation is None else truncated(z, truncation)


def truncated(z: np.ndarray, limit: float) -> np.ndarray:
    """Standard normal values as those of the distribution cut off at plus and minus `limit`, in the same order."""
    from scipy.special import ndtr, ndtri  # half of what the command line takes to refuse a misspelt option

    share = ndtr(z.astype(np.float64))
    low = ndtr(-limit)
    inside: np.ndarray = ndtri(low + share * (1.0 - 2.0 * low))
    return np.clip(inside, -limit, limit).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _block(seed: int, block: int, z_dim: int) -> np.ndarray:
    values = draws(seed, block, "evaluation noise").standard_normal((BLOCK, z_dim), dtype="float32")
    values.flags.writeable = False
    return values
