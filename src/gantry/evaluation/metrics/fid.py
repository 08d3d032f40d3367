"""The Frechet Inception Distance, and its standard deviation between draws."""

import math

import torch
from torch import Tensor

from gantry.evaluation.metrics.metric import Inputs, Metric
from gantry.evaluation.moments import Moments, Reference, chunks, moments, reference

AGREEMENT = (
    1e-6  # largest relative rounding error at which ours replaces torch-fidelity's FID (ten times the actual one)
)
RANK = 1e-12  # eigenvalues below this part of the largest are rounding


def metric() -> Metric:
    """Return the metric `fid`, lower is better."""
    return Metric(
        "fid",
        higher_is_better=False,
        compute=_compute,
        spread=lambda inputs, values: {"fid": inputs.once(spread)},
    )


def _compute(inputs: Inputs) -> float:
    generated = inputs.moments
    with inputs.watch("distance"):
        return fid(inputs.real.reference, generated)


def spread(inputs: Inputs) -> float:
    """Return the spread of the FID of the generated images."""
    with inputs.watch("spread"):
        return fid_spread(inputs.real.reference, inputs.placed, inputs.moments)


def fid(real: Moments | Reference, generated: Tensor | Moments) -> float:
    """Return the Frechet Inception Distance of `generated` features (n, d), n at least 2, or of their moments.

    Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, equation 6: the squared Frechet
    distance of the Gaussians with the features' means and covariances. Lower is better.

    The value is torch-fidelity's. Where a covariance is singular, as with no more images than dimensions, that contains
    relative rounding noise of up to 1e-5, so it is computed by torch-fidelity; else by `frechet`.
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
    sides = ({"mu": side.mean, "sigma": side.covariance} for side in (generated, given))
    first, second = ({name: value.cpu().numpy() for name, value in side.items()} for side in sides)
    return fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]


def frechet(real: Reference, generated: Moments) -> float:
    """Return the squared Frechet distance of two Gaussians, accurately also where a covariance is singular.

    The trace of (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of R^T S2 R, with S1 = R R^T, which is
    symmetric: three times as fast as S1 S2, and without its rounding noise.
    """
    return _frechet(real, generated)[0]


def _frechet(real: Reference, generated: Moments) -> tuple[float, float]:
    """Return the distance, and an estimate of the error by rounding in the library's eigenvalues of S1 S2."""
    rank, generated = min(real.root.shape[1], generated.n - 1), generated.to(real.root.device)
    values = torch.linalg.eigvalsh(real.root.T @ generated.covariance @ real.root)[-rank:].clamp(min=0)
    difference = real.moments.mean - generated.mean
    traces = real.moments.covariance.trace() + generated.covariance.trace()
    distance = difference @ difference + traces - 2 * values.sqrt().sum()
    error = values[-1:].sum() * torch.finfo(values.dtype).eps  # of an eigenvalue e; of its root, error / 2 sqrt(e)
    noise = (error / torch.maximum(values, error).sqrt()).nan_to_num().sum()
    return distance.item(), noise.item()


def fid_spread(real: Reference, generated: Tensor, generated_moments: Moments | None = None) -> float:
    """Return the spread of the FID of `generated` features (n, d), n at least 3.

    The delta method: FID is a smooth function of the generated mean m and covariance S, so its error is the mean over
    the images x, c = x - m, of their influence

        2 c . (m - m_real) + c^T (1 - T) c,    T = R (R^T S R)^(-1/2) R^T,    R R^T the real covariance,

    T being the optimal transport map from the generated Gaussian to the real one. Within a fifth of the truth in
    simulations where FIDs of ten parts, with their own biases, are off by up to a factor of two.

    Args:
        real: the real images' moments with their root.
        generated: in any order.
        generated_moments: `moments(generated)`, if computed already.
    """
    found = moments(generated) if generated_moments is None else generated_moments
    mean, covariance, n = found.to(real.root.device)
    values, vectors = torch.linalg.eigh(real.root.T @ covariance @ real.root)
    kept = values > values[-1:] * RANK
    kept[: max(len(values) - (n - 1), 0)] = False
    half = real.root @ (vectors[:, kept] * values[kept] ** -0.25)  # T = half @ half.T
    influence = []
    for chunk in chunks(generated):
        centred = chunk.to(mean.device).double() - mean
        squares = centred.square().sum(1) - (centred @ half).square().sum(1)
        influence.append(2 * centred @ (mean - real.moments.mean) + squares)
    return torch.cat(influence).std().item() / math.sqrt(n)
