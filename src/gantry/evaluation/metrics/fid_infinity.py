"""FID_infinity: the FID extrapolated to infinitely many generated images."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gantry.core.errors import UserError
from gantry.core.randomness import draws
from gantry.evaluation.metrics import fid
from gantry.evaluation.metrics.metric import Inputs, Metric
from gantry.evaluation.moments import Reference, moments

POINTS = 15  # number of FIDs that are extrapolated
FEWEST = 5000  # smallest number of images for one of them, or half of all


def metric() -> Metric:
    """Return the metric `fid_infinity`, lower is better."""
    return Metric(
        "fid_infinity",
        higher_is_better=False,
        compute=lambda inputs: fid_infinity(inputs.real.reference, inputs.features, inputs.seed, inputs.placed),
        spread=_spread,
    )


def _spread(inputs: Inputs, values: Mapping[str, float]) -> dict[str, float]:
    return {"fid_infinity": fid_infinity_spread(inputs.once(fid.spread), len(inputs.features))}


def fid_infinity(real: Reference, generated: Tensor, seed: int, copy: Tensor | None = None) -> float:
    """Extrapolate the FID to infinitely many generated images, from `generated` features (n, d), n at least 30.

    Chong and Forsyth 2020, Effectively Unbiased FID and Inception Score and Where to Find Them, section 4: the bias
    of FID falls as 1 / n, so the FIDs of random subsets of 15 sizes, evenly spaced from 5000 (half of the images where
    they are fewer than 10,000) to all, are extrapolated linearly to 1 / n = 0. The real images stay as they are.
    With fewer images than dimensions the bias is no longer linear, and the estimate is too low.

    Args:
        real: the real images' moments with their root.
        generated: their order does not matter.
        seed: of the subsets.
        copy: `generated` on the device that computes.

    Raises:
        UserError: n is below 30.
    """
    sizes = _sizes(len(generated))
    fids = []
    for point, size in enumerate(sizes):
        rows = draws(seed, point, "fid infinity").permutation(len(generated))[:size]
        fids.append(fid.frechet(real, moments(generated, torch.from_numpy(np.sort(rows)), copy)))
    return float(_intercept(sizes) @ np.array(fids))


def fid_infinity_spread(fid_spread: float, n: int) -> float:
    """Return the spread of FID_infinity from n images, given the spread of FID.

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
    """Return the weights (15,) of values at `sizes` in the intercept of their least-squares line over 1 / size."""
    return np.linalg.pinv(np.stack((np.ones(len(sizes)), 1 / sizes), 1))[0]
