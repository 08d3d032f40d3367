"""FID, KID, Inception Score and classes covered: pure functions, and what each may be called.

Features may be a memory map of a file: they are read in chunks of rows, so that memory does not grow with them.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gantry.evaluation.extractors.extractor import Extractor

STANDARD_COUNT = 50_000  # generated images behind the papers' numbers
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000  # or all there are
INCEPTION_SCORE_SPLITS = 10
INCEPTION_SCORE_SEED = 2020  # torch-fidelity's
COVERED = 0.1  # share of its real share at which a class counts as covered
CHUNK = 1024  # rows in float64 at a time: 16 MiB of 2048 features
AGREEMENT = 1e-6  # of an FID: bound on the rounding up to which ours stands for torch-fidelity's (ten times what it is)


class Moments(NamedTuple):
    """Of n features: mean (d,) and unbiased covariance (d, d), float64.

    The mean of float32 features is the float32 running sum's, as torch-fidelity takes it: at n = 50,000 it is off
    by some 1e-6, which an FID below 1 shows in its sixth digit. The covariance is about the exact mean.
    """

    mean: Tensor
    covariance: Tensor
    n: int


class Reference(NamedTuple):
    """Moments to which many others are compared, with a root (d, r): root @ root.T is the covariance, r its rank."""

    moments: Moments
    root: Tensor


def chunks(features: Tensor, rows: Tensor | None = None, size: int = CHUNK) -> Iterator[Tensor]:
    """`features` (n, d), or those of `rows`, int64 (m,), in pieces of at most `size` rows."""
    if rows is None:
        yield from features.split(size)
    else:
        for part in rows.split(size):
            yield features[part]


def moments(features: Tensor, rows: Tensor | None = None) -> Moments:
    """The moments of `features` (n, d), or of those of `rows`, int64 (m,); at least 2."""
    n, dimensions = len(features) if rows is None else len(rows), features.shape[1]
    running = features.new_zeros(dimensions).numpy()
    total = torch.zeros(dimensions, dtype=torch.float64)
    for chunk in chunks(features, rows):
        running = np.add.reduce(np.concatenate((running[None], chunk.numpy())), axis=0)  # row after row, as np.mean
        total += chunk.sum(0, dtype=torch.float64)
    covariance = torch.zeros(dimensions, dimensions, dtype=torch.float64)
    for chunk in chunks(features, rows):
        centred = chunk.double() - total / n
        covariance.addmm_(centred.T, centred)
    return Moments(torch.from_numpy(running / running.dtype.type(n)).double(), covariance.div_(n - 1), n)


def reference(real: Moments) -> Reference:
    """`real` with its covariance's root: the costly half of an FID, to be kept where there are many."""
    values, vectors = torch.linalg.eigh(real.covariance)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return Reference(real, vectors[:, kept] * values[kept].sqrt())


def frechet(real: Reference, generated: Moments) -> float:
    """The squared Frechet distance of two Gaussians, accurately, also where a covariance is singular.

    The trace of (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of R^T S2 R, with S1 = R R^T, which is
    symmetric: three times as fast as S1 S2, and without its rounding noise.
    """
    return _frechet(real, generated)[0]


def _frechet(real: Reference, generated: Moments) -> tuple[float, float]:
    """The distance, and about how far rounding takes the library's eigenvalues of S1 S2 from it."""
    rank = min(real.root.shape[1], generated.n - 1)
    values = torch.linalg.eigvalsh(real.root.T @ generated.covariance @ real.root)[-rank:].clamp(min=0)
    difference = real.moments.mean - generated.mean
    traces = real.moments.covariance.trace() + generated.covariance.trace()
    distance = difference @ difference + traces - 2 * values.sqrt().sum()
    error = values[-1:].sum() * torch.finfo(values.dtype).eps  # of an eigenvalue e; of its root, error / 2 sqrt(e)
    noise = (error / torch.maximum(values, error).sqrt()).nan_to_num().sum()
    return distance.item(), noise.item()


def fid(real: Moments | Reference, generated: Tensor | Moments) -> float:
    """Frechet Inception Distance of `generated` features (n, d), n at least 2, or of their moments, from the real ones.

    Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, equation 6: the squared Frechet
    distance of the Gaussians with the features' means and covariances. Lower is better.

    The value is torch-fidelity's. Where a covariance is singular, as with no more images than dimensions, that holds
    rounding noise of up to 1e-5 of the whole, so it is computed by torch-fidelity; else by `frechet`.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    if isinstance(generated, Tensor):
        generated = moments(generated)
    given = real if isinstance(real, Moments) else real.moments
    if min(given.n, generated.n) > len(given.mean):
        real = reference(real) if isinstance(real, Moments) else real
        distance, noise = _frechet(real, generated)
        if real.root.shape[1] == len(given.mean) and noise < AGREEMENT * distance:
            return distance
    first, second = ({"mu": side.mean.numpy(), "sigma": side.covariance.numpy()} for side in (generated, given))
    return fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]


def kid_subset_size(n_real: int, n_generated: int) -> int:
    """Features in each of KID's subsets: 1000, or as many as both sides have."""
    return min(KID_SUBSET_SIZE, n_real, n_generated)


def kid(real: Tensor, generated: Tensor, subsets: int = KID_SUBSETS) -> tuple[float, float]:
    """Kernel Inception Distance between features (n, d) and (m, d), n and m at least 2, and its std over the subsets.

    Binkowski et al. 2018, Demystifying MMD GANs, section 4: the unbiased squared maximum mean discrepancy
    under a cubic kernel, mean over `subsets` random subsets; about 0, either side, for equal distributions.
    By torch-fidelity, which draws the subsets from a seed of its own, the generated side first.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size = kid_subset_size(len(real), len(generated))
    result = kid_features_to_metric(generated, real, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    return result[KEY_METRIC_KID_MEAN], result[KEY_METRIC_KID_STD]


def inception_score(logits: Tensor) -> tuple[float, float]:
    """Inception Score of generated `logits` (n, k), n at least 10, and its standard deviation over 10 splits.

    Salimans et al. 2016, Improved Techniques for Training GANs, section 4: exp of the mean divergence of
    p(y|x) from p(y), 1 to k, higher is better. By torch-fidelity, one split at a time, shuffled as it shuffles.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    order = np.random.RandomState(INCEPTION_SCORE_SEED).permutation(len(logits))
    bounds = [split * len(logits) // INCEPTION_SCORE_SPLITS for split in range(INCEPTION_SCORE_SPLITS + 1)]
    found = [
        isc_features_to_metric(logits[torch.from_numpy(order[begin:end])], splits=1, shuffle=False)[KEY_METRIC_ISC_MEAN]
        for begin, end in pairwise(bounds)
    ]
    return float(np.mean(found)), float(np.std(found))


def classes_covered(real: Tensor, generated: Tensor) -> int:
    """How many real classes the generated images show, 0 to the number of classes.

    A class counts when its share of the generated images is at least a tenth of its share of the real ones:
    low enough to ask for presence, not balance; high enough that stray mistakes do not count.

    Args:
        real, generated: the classes the classifier predicts, int64 (n,) and (m,).
    """
    classes = int(max(real.max(), generated.max())) + 1
    shares = torch.bincount(real, minlength=classes) / len(real)
    found = torch.bincount(generated, minlength=classes) / len(generated)
    return int(((shares > 0) & (found >= COVERED * shares)).sum())


def names(extractor: Extractor, n_generated: int, split: str, *more: str) -> dict[str, str]:
    """What each score may be called: the papers' name only under the papers' protocol.

    Official Inception weights: `fid` for 50,000 generated images, `fid_5k`, `fid_2048` for other counts.
    Inception with other weights: `fid_inception-0a1b2c3d_5k`, after their hash. Against another split
    than the training set, or a part of it: `fid_test`, `fid_5k_train-1000`. On the data set's own classes:
    `fid_classifier`, and `modes_classifier` for the classes covered.

    Args:
        extractor: what looked at the images.
        n_generated: how many there were.
        split: the real images, of which split.
        more: statistics besides those of every evaluation, such as `precision`.
    """
    classified = ["inception_score", "inception_score_std"] if extractor.has_logits else []
    statistics = ["fid", "kid", *classified, *more]
    if extractor.labelled:
        suffix = f"_{extractor.name}"
        statistics.append("modes")
    else:
        suffix = "" if extractor.official else f"_{extractor.name}-{extractor.digest[:8]}"
        if n_generated != STANDARD_COUNT:
            suffix += f"_{n_generated // 1000}k" if n_generated % 1000 == 0 else f"_{n_generated}"
        if split not in ("train", "all"):
            suffix += f"_{split}"
    return {statistic: statistic + suffix for statistic in statistics}
