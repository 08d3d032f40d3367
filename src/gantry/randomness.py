"""Randomness without state: every draw is a function of (seed, step, purpose).

A counter-based generator (Philox; Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3) is keyed by
the three, so a run resumed at step k draws what it would have drawn, and every rank can draw the global batch
and keep its own slice of it.
"""

import zlib

import numpy as np


def draws(seed: int, step: int, purpose: str) -> np.random.Generator:
    """The random numbers that `purpose` uses at `step` of the run seeded with `seed`.

    Args:
        seed: the run's seed, 0 to 2**63 - 1.
        step: the unit the purpose counts in (generator steps, batches, epochs), at least 0.
        purpose: a name of your own, one for each use: draws for different purposes are independent.
    """
    key = np.array([seed, zlib.crc32(purpose.encode())], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step]))
