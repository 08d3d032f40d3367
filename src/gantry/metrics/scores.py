"""FID, KID, Inception Score and classes covered: pure functions, and what each may be called."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from gantry.metrics.extractors import Extractor

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance

STANDARD_COUNT = 50_000  # generated images behind the papers' numbers
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000  # or all there are
INCEPTION_SCORE_SPLITS = 10
COVERED = 0.1  # share of its real share at which a class counts as covered


class Moments(NamedTuple):
    """What FID keeps of n features: their sum (d,) and that of their outer products (d, d), float64; n."""

    total: Tensor
    outer: Tensor
    n: int


def _fid_metric(dimensions: int) -> "FrechetInceptionDistance":
    """torchmetrics' FID on features: float64 in, so that it computes and answers in float64."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    identity = nn.Identity()
    identity.num_features = dimensions  # type: ignore[assignment]
    # Rank 0 alone scores all images; left to itself the metric would wait for the other ranks.
    return FrechetInceptionDistance(feature=identity, sync_on_compute=False)


def _feed(metric: "FrechetInceptionDistance", features: Tensor, real: bool) -> None:
    for chunk in features.split(4096):  # bounds the float64 copy
        metric.update(chunk.double(), real=real)


def moments(features: Tensor) -> Moments:
    """The moments of `features` (n, d)."""
    metric = _fid_metric(features.shape[1])
    _feed(metric, features, real=True)
    return Moments(metric.real_features_sum, metric.real_features_cov_sum, len(features))


def fid(real: Moments, generated: Tensor) -> float:
    """Frechet Inception Distance of `generated` features (n, d), n at least 2, from the real ones.

    Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, equation 6: the squared Frechet
    distance of the Gaussians with the features' means and covariances. Lower is better.
    """
    metric = _fid_metric(generated.shape[1])
    metric.real_features_sum = real.total
    metric.real_features_cov_sum = real.outer
    metric.real_features_num_samples = torch.tensor(real.n)
    _feed(metric, generated, real=False)
    return metric.compute().item()


def kid_subset_size(n_real: int, n_generated: int) -> int:
    """Features in each of KID's subsets: 1000, or as many as both sides have."""
    return min(KID_SUBSET_SIZE, n_real, n_generated)


def kid(real: Tensor, generated: Tensor, subsets: int = KID_SUBSETS) -> float:
    """Kernel Inception Distance between features (n, d) and (m, d), n and m at least 2; lower is better.

    Binkowski et al. 2018, Demystifying MMD GANs, section 4: the unbiased squared maximum mean discrepancy
    under a cubic kernel, mean over `subsets` random subsets; about 0, either side, for equal distributions.
    By torch-fidelity, which draws the subsets from a seed of its own, the generated side first.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = kid_subset_size(len(real), len(generated))
    result = kid_features_to_metric(generated, real, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    return result[KEY_METRIC_KID_MEAN]


def inception_score(logits: Tensor) -> tuple[float, float]:
    """Inception Score of generated `logits` (n, k), n at least 10, and its standard deviation over 10 splits.

    Salimans et al. 2016, Improved Techniques for Training GANs, section 4: exp of the mean divergence of
    p(y|x) from p(y), 1 to k, higher is better. By torch-fidelity, which shuffles with a seed of its own.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    result = isc_features_to_metric(logits, splits=INCEPTION_SCORE_SPLITS)
    return result[KEY_METRIC_ISC_MEAN], result[KEY_METRIC_ISC_STD]


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


def names(extractor: Extractor, n_generated: int, split: str) -> dict[str, str]:
    """What each score may be called: the papers' name only under the papers' protocol.

    Official Inception weights: `fid` for 50,000 generated images, `fid_5k`, `fid_2048` for other counts.
    Inception with other weights: `fid_inception-0a1b2c3d_5k`, after their hash. Against another split
    than the training set, or a part of it: `fid_test`, `fid_5k_train-1000`. On the data set's own classes:
    `fid_classifier`, and `modes_classifier` for the classes covered.
    """
    statistics = ["fid", "kid", "inception_score", "inception_score_std"]
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
