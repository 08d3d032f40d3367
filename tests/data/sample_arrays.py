"""Images as other tools save them, and how they are read."""

from pathlib import Path

import numpy as np

from gantry.data.sample_files import samples

COLOUR, GREY = (3, 12, 12), (1, 12, 12)
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (7, 12, 12, 3), dtype=np.uint8)  # (N, H, W, C)
LABELS = np.array([0, 1, 2, 2, 1, 0, 2])
NCHW = PIXELS.transpose(0, 3, 1, 2)


def load(path: Path, shape=COLOUR):
    return samples(path, path.parent / "cache", shape)


def saved(tmp_path: Path, **arrays) -> Path:
    path = tmp_path / "made.npz"
    np.savez_compressed(path, **arrays)
    return path
