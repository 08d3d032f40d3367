"""Computes the mean and covariance of features, for the Frechet distance.

Features may be a memory map of a file: they are read in chunks of rows, so that memory does not grow with them.
"""

from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CHUNK = 1024  # rows in float64 at a time: 16 MiB of 2048 features


class Moments(NamedTuple):
    """Mean (d,) and unbiased covariance (d, d) of n features, float64.

    The mean of float32 features uses a float32 running sum, as in torch-fidelity: at n = 50,000 its error is about
    1e-6, which changes the sixth digit of an FID below 1. The covariance is about the exact mean.
    """

    mean: Tensor
    covariance: Tensor
    n: int

    def to(self, device: torch.device) -> "Moments":
        return Moments(self.mean.to(device), self.covariance.to(device), self.n)


class Reference(NamedTuple):
    """Moments to which many others are compared, with a root (d, r): root @ root.T is the covariance, r its rank."""

    moments: Moments
    root: Tensor


def chunks(features: Tensor, rows: Tensor | None = None, size: int = CHUNK) -> Iterator[Tensor]:
    """Yield `features` (n, d), or those of `rows`, int64 (m,), in chunks of at most `size` rows."""
    if rows is None:
        yield from features.split(size)
    else:
        for part in rows.split(size):
            yield features[part]


def moments(features: Tensor, rows: Tensor | None = None, copy: Tensor | None = None) -> Moments:
    """Return the moments of `features` (n, d), or of those of `rows`, int64 (m,); at least 2.

    Args:
        features: on the CPU, where the rows are summed one after another.
        rows: on the CPU.
        copy: the same features on the device that computes the covariance, where the moments are returned.
    """
    n, dimensions = len(features) if rows is None else len(rows), features.shape[1]
    held = features if copy is None else copy
    chosen = None if rows is None else rows.to(held.device)
    running = features.new_zeros(dimensions).numpy()
    total = torch.zeros(dimensions, dtype=torch.float64, device=held.device)
    apart = () if held is features else chunks(held, chosen)
    for chunk, same in zip_longest(chunks(features, rows), apart):
        running = np.add.reduce(np.concatenate((running[None], chunk.numpy())), axis=0)  # row after row, as np.mean
        total += (chunk if same is None else same).sum(0, dtype=torch.float64)
    covariance = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=held.device)
    for chunk in chunks(held, chosen):
        centred = chunk.double() - total / n
        covariance.addmm_(centred.T, centred)
    mean = torch.from_numpy(running / running.dtype.type(n)).double()
    return Moments(mean.to(held.device), covariance.div_(n - 1), n)


def reference(real: Moments) -> Reference:
    """Return `real` with its covariance's root: the costly half of an FID, to be reused for many FIDs."""
    values, vectors = torch.linalg.eigh(real.covariance)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return Reference(real, vectors[:, kept] * values[kept].sqrt())
