"""The Kernel Inception Distance, and its standard deviation between draws."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gantry.core.randomness import draws
from gantry.evaluation.metrics.metric import Inputs, Metric

SUBSETS = 100
SUBSET_SIZE = 1000  # or all images, if there are fewer
SEED = 2020  # torch-fidelity's
SAMPLE = 2000  # real and generated images used for the spread, each


def metric() -> Metric:
    """Return the metric `kid`, lower is better, with `kid_std`, its standard deviation over the subsets."""
    return Metric("kid", higher_is_better=False, compute=_compute, spread=_spread, values=("kid", "kid_std"))


def _compute(inputs: Inputs) -> dict[str, float]:
    mean, std = kid(*inputs.both_placed, inputs.kid_subsets)
    return {"kid": mean, "kid_std": std}


def _spread(inputs: Inputs, values: Mapping[str, float]) -> dict[str, float]:
    return {"kid": kid_spread(*inputs.both_placed, values["kid_std"], inputs.kid_subsets)}


def subset_size(n_real: int, n_generated: int) -> int:
    """Return the size of KID's subsets: 1000, or the smaller of the two numbers of images."""
    return min(SUBSET_SIZE, n_real, n_generated)


def kid(real: Tensor, generated: Tensor, subsets: int = SUBSETS) -> tuple[float, float]:
    """Return the Kernel Inception Distance of features (n, d) and (m, d), n and m at least 2, and its std.

    Binkowski et al. 2018, Demystifying MMD GANs, section 4: the unbiased squared maximum mean discrepancy
    under a cubic kernel, mean over `subsets` random subsets, and the standard deviation over them; near 0, of either
    sign, for equal distributions.
    By torch-fidelity, which draws the subsets from a seed of its own, the generated side first. Features on a GPU are
    compared there, in the same subsets; the sums are then float64's, where torch-fidelity's are float32's.
    """
    size = subset_size(len(real), len(generated))
    if generated.is_cuda:
        return kid_of_subsets(real, generated, subsets, size)
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    result = kid_features_to_metric(generated, real, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    return result[KEY_METRIC_KID_MEAN], result[KEY_METRIC_KID_STD]


def kid_of_subsets(real: Tensor, generated: Tensor, subsets: int, size: int) -> tuple[float, float]:
    """Return `kid` on the features' device, in torch-fidelity's `subsets` of `size` images."""
    random = np.random.RandomState(SEED)
    found = []
    for _ in range(subsets):
        mine, theirs = (
            side[torch.from_numpy(random.choice(len(side), size, replace=False)).to(side.device)]
            for side in (generated, real)
        )
        own = (_kernel(side, side).double() for side in (mine, theirs))
        apart = sum((kernel.sum() - kernel.trace()) / (size * (size - 1)) for kernel in own)
        found.append(apart - 2 * _kernel(mine, theirs).double().mean())
    values = torch.stack(found)
    return values.mean().item(), values.std(correction=0).item()


def kid_spread(real: Tensor, generated: Tensor, std: float, subsets: int) -> float:
    """Return the spread of the KID of `generated` features (n, d) against `real` ones (m, d), n and m at least 4.

    Two errors add up: that of drawing `subsets` random subsets, known from `std` between them, and that of all
    n images, the variance of a U-statistic (Hoeffding 1948), 4 v1 / n + 2 v2 / n^2: v1 is the variance of an image's
    mean kernel with the generated less that with the real, v2 of the kernel once its rows and columns are centred.
    Both are estimated from 2000 images of either side; v1 as the covariance of two halves' means, which has no bias.
    """
    sample, others = (_sample(side, purpose).double() for side, purpose in ((generated, "generated"), (real, "real")))
    kernel, across = _kernel(sample, sample), _kernel(sample, others)
    count = len(sample)
    kernel.fill_diagonal_(0)
    means = []
    for half in range(2):
        own = torch.arange(count, device=kernel.device) % 2 == half
        means.append(kernel[:, own].sum(1) / (own.sum() - own.long()) - across[:, half::2].mean(1))
    first = torch.cov(torch.stack(means))[0, 1].clamp(min=0).item()
    rows = kernel.sum(1) / (count - 1)
    centred = (kernel - rows - rows[:, None] + rows.mean()).fill_diagonal_(0)
    second = centred.square().sum().item() / (count * (count - 1))
    n = len(generated)
    return math.sqrt(std**2 / subsets + 4 * first / n + 2 * second / n**2)


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    """Return KID's kernel (x . y / d + 1)^3."""
    return (left @ right.T / left.shape[1] + 1) ** 3


def _sample(features: Tensor, purpose: str) -> Tensor:
    rows = draws(0, 0, f"kid spread {purpose}").permutation(len(features))[:SAMPLE]
    return features[torch.from_numpy(rows).to(features.device)]
