"""Draws latents: an infinite stream for each seed, in which a vector depends on the seed and its index only."""

import functools

import numpy as np

from gantry.core.randomness import draws

BLOCK = 512  # vectors drawn at a time
TILE = 64  # images generated at a time, from an index that is a multiple of it: rounding depends on the batch size


def stream(seed: int, first: int, count: int, z_dim: int, truncation: float | None = None) -> np.ndarray:
    """Return vectors `first` to `first + count` of the stream of `seed`.

    Args:
        seed: 0 to 2**63 - 1.
        first: index of the first vector, at least 0.
        count: number of vectors.
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
    """Map standard normal values to the normal distribution truncated at plus and minus `limit`; the order is kept."""
    from scipy.special import ndtr, ndtri  # slow to import: half the time in which a misspelt option is refused

    share = ndtr(z.astype(np.float64))
    low = ndtr(-limit)
    inside: np.ndarray = ndtri(low + share * (1.0 - 2.0 * low))
    return np.clip(inside, -limit, limit).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _block(seed: int, block: int, z_dim: int) -> np.ndarray:
    values = draws(seed, block, "evaluation noise").standard_normal((BLOCK, z_dim), dtype="float32")
    values.flags.writeable = False
    return values
