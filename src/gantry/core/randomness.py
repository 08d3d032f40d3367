"""Randomness without state: every draw is a function of (seed, step, purpose).

A counter-based generator (Philox; Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3) is keyed by
the three, so a run resumed at step k draws what it would have drawn, and every rank can draw the global batch
and keep its own slice of it.
"""

import zlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class Key(ISeedSequence):
    """Passes Philox its key; with the argument `key`, Philox would also request an unused seed of the system."""

    def __init__(self, *words: int) -> None:
        self.words = np.array(words, dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the key: the two 64-bit words that Philox requests."""
        return self.words


def draws(seed: int, step: int, purpose: str) -> np.random.Generator:
    """Return the random generator that `purpose` uses at `step` of the run seeded with `seed`.

    Args:
        seed: the run's seed, 0 to 2**63 - 1.
        step: the unit the purpose counts in (generator steps, batches, epochs), at least 0.
        purpose: a unique name for each use; draws for different purposes are independent.
    """
    key = Key(seed, zlib.crc32(purpose.encode()))
    return np.random.Generator(np.random.Philox(key, counter=[0, 0, 0, step]))  # type: ignore[arg-type]
