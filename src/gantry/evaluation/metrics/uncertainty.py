"""How far a score is from what infinitely many images would give, and how much it would vary between draws.

The spread of a score is its standard deviation over repeated draws of n generated images, the real ones staying the
same, estimated from one draw. Precision and its like bring their own (`gantry.evaluation.metrics.precision_recall`).
"""

import math

import numpy as np
import torch
from torch import Tensor

from gantry.core.errors import UserError
from gantry.core.randomness import draws
from gantry.evaluation.metrics.fid_kid_is import INCEPTION_SCORE_SPLITS, Moments, Reference, chunks, frechet, moments

POINTS = 15  # FIDs behind FID_infinity
FEWEST = 5000  # images behind any of them, or half of all
KID_SAMPLE = 2000  # images of either side behind KID's spread
RANK = 1e-12  # eigenvalues below this part of the largest are rounding


def fid_infinity(real: Reference, generated: Tensor, seed: int) -> float:
    """The FID that infinitely many generated images would have, from `generated` features (n, d), n at least 30.

    Chong and Forsyth 2020, Effectively Unbiased FID and Inception Score and Where to Find Them, section 4: the bias
    of FID falls as 1 / n, so the FIDs of random subsets of 15 sizes, evenly spaced from 5000 (half of the images where
    they are fewer than 10,000) to all, are extrapolated linearly to 1 / n = 0. The real images stay as they are.
    With fewer images than dimensions the bias is no longer linear, and the estimate comes out too low.

    Args:
        real: the real images' moments with their root.
        generated: their order does not matter.
        seed: of the subsets.

    Raises:
        UserError: n is below 30.
    """
    sizes = _sizes(len(generated))
    found = []
    for point, size in enumerate(sizes):
        rows = draws(seed, point, "fid infinity").permutation(len(generated))[:size]
        found.append(frechet(real, moments(generated, torch.from_numpy(np.sort(rows)))))
    return float(_intercept(sizes) @ np.array(found))


def fid_infinity_spread(fid_spread: float, n: int) -> float:
    """The spread of FID_infinity from n images, of which FID's own is known.

    To first order an FID's error is the mean of independent terms, one for each image. Subsets drawn from the same n
    share the error of them all, 1 / n, and have 1 / size - 1 / n of their own; the intercept is a weighted sum of them.
    """
    sizes = _sizes(n)
    return fid_spread * float(np.sqrt(1 + (_intercept(sizes) ** 2 * (n / sizes - 1)).sum()))


def _sizes(n: int) -> np.ndarray:
    if n < 2 * POINTS:
        raise UserError(f"FID_infinity needs {2 * POINTS} generated images or more, not {n}")
    return np.linspace(min(FEWEST, n // 2), n, POINTS).astype(int)


def _intercept(sizes: np.ndarray) -> np.ndarray:
    """Weights (15,) by which values at `sizes` add to the intercept of their least-squares line over 1 / size."""
    return np.linalg.pinv(np.stack((np.ones(len(sizes)), 1 / sizes), 1))[0]


def fid_spread(real: Reference, generated: Tensor, known: Moments | None = None) -> float:
    """The spread of the FID of `generated` features (n, d), n at least 3.

    The delta method: FID is a smooth function of the generated mean m and covariance S, so its error is the mean over
    the images x, c = x - m, of their influence

        2 c . (m - m_real) + c^T (1 - T) c,    T = R (R^T S R)^(-1/2) R^T,    R R^T the real covariance,

    T being the optimal transport map from the generated Gaussian to the real one. Within a fifth of the truth in
    simulations where FIDs of ten parts, with their own biases, are off by up to a factor of two.

    Args:
        real: the real images' moments with their root.
        generated: in any order.
        known: `moments(generated)`, where they are known.
    """
    mean, covariance, n = moments(generated) if known is None else known
    values, vectors = torch.linalg.eigh(real.root.T @ covariance @ real.root)
    kept = values > values[-1:] * RANK
    kept[: max(len(values) - (n - 1), 0)] = False
    half = real.root @ (vectors[:, kept] * values[kept] ** -0.25)  # T = half @ half.T
    influence = []
    for chunk in chunks(generated):
        centred = chunk.double() - mean
        squares = centred.square().sum(1) - (centred @ half).square().sum(1)
        influence.append(2 * centred @ (mean - real.moments.mean) + squares)
    return torch.cat(influence).std().item() / math.sqrt(n)


def kid_spread(real: Tensor, generated: Tensor, std: float, subsets: int) -> float:
    """The spread of the KID of `generated` features (n, d) against `real` ones (m, d), 4 or more on either side.

    Two errors add up: that of having drawn `subsets` random subsets, which `std` between them shows, and that of all
    n images, the variance of a U-statistic (Hoeffding 1948), 4 v1 / n + 2 v2 / n^2: v1 is the variance of an image's
    mean kernel with the generated less that with the real, v2 of the kernel once its rows and columns are centred.
    Both are taken from 2000 images of either side; v1 as the covariance of two halves' means, which has no bias.
    """
    sample, others = (_sample(side, purpose).double() for side, purpose in ((generated, "generated"), (real, "real")))
    kernel, across = _kernel(sample, sample), _kernel(sample, others)
    count = len(sample)
    kernel.fill_diagonal_(0)
    means = []
    for half in range(2):
        own = torch.arange(count) % 2 == half
        means.append(kernel[:, own].sum(1) / (own.sum() - own.long()) - across[:, half::2].mean(1))
    first = torch.cov(torch.stack(means))[0, 1].clamp(min=0).item()
    rows = kernel.sum(1) / (count - 1)
    centred = (kernel - rows - rows[:, None] + rows.mean()).fill_diagonal_(0)
    second = centred.square().sum().item() / (count * (count - 1))
    n = len(generated)
    return math.sqrt(std**2 / subsets + 4 * first / n + 2 * second / n**2)


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    """KID's: (x . y / d + 1)^3."""
    return (left @ right.T / left.shape[1] + 1) ** 3


def _sample(features: Tensor, purpose: str) -> Tensor:
    rows = draws(0, 0, f"kid spread {purpose}").permutation(len(features))[:KID_SAMPLE]
    return features[torch.from_numpy(rows)]


def inception_score_spread(std: float) -> float:
    """The spread of an Inception Score, the mean over ten splits, between which `std` was found."""
    return std / math.sqrt(INCEPTION_SCORE_SPLITS - 1)
