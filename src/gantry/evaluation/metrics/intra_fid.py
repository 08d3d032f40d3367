"""The intra-class FID: the mean over classes of the FID between a class's real and generated images."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gantry.evaluation.metrics.class_shares import names_of
from gantry.evaluation.metrics.metric import ASKED, Found, Inputs, Metric

FEWEST = 2  # images of a class, for a covariance
NAMED = 5  # classes named


def metric() -> Metric:
    """Return the metric `intra_fid`, lower is better, with the FID of each class."""
    return Metric("intra_fid", False, compute=_compute, needs=(ASKED,))


def _compute(inputs: Inputs) -> Found:
    return of_classes("intra_fid", inputs, inputs.asked, asked=True)


def of_classes(name: str, inputs: Inputs, labels: Tensor | None, asked: bool) -> Found:
    """Return the mean of the FIDs of the classes as the value `name`, each class's as details, and its caveats.

    Args:
        labels: of the generated images, int64 (n,), as indices into the data's classes.
        asked: whether those classes were asked for. A class of fewer than two generated images is then left out of the
            mean, since that is not the generator's doing; else the mean is NaN. A class of fewer than two real images
            is left out always. The mean of no class is NaN.
    """
    assert labels is not None
    assert inputs.data.labels is not None
    real, generated = inputs.both_placed
    of_real = torch.from_numpy(np.asarray(inputs.data.labels))
    distances = class_fids(real, of_real, generated, labels)
    names = names_of(inputs.data.classes or (), max(map(int, (of_real.max(), labels.max()))) + 1)
    counts = [torch.bincount(one, minlength=len(names)).tolist() for one in (of_real, labels)]
    details = {
        names[label]: {
            "fid": None if math.isnan(distance) else distance,
            **dict(zip(("real", "generated"), (count[label] for count in counts), strict=True)),
        }
        for label, distance in distances.items()
    }
    missing = [label for label, distance in distances.items() if math.isnan(distance)]
    kept = [label for label in distances if label not in missing]
    value = math.fsum(distances[label] for label in kept) / len(kept) if kept and (asked or not missing) else math.nan
    few = [each for each, count in zip(names, counts[0], strict=True) if count < FEWEST]
    caveats = [_missing(name, few, "real", bool(distances))] if few else []
    if missing:
        caveats.append(_missing(name, [names[label] for label in missing], "generated", asked and bool(kept)))
    sizes = [[count[label] for label in kept] for count in counts]
    return Found({name: value}, details, caveats=[*caveats, *_singular(name, real.shape[1], *sizes)])


def class_fids(real: Tensor, real_labels: Tensor, generated: Tensor, labels: Tensor) -> dict[int, float]:
    """Return the FID of each class, by its label, between its real and its generated images.

    Miyato and Koyama 2018, cGANs with Projection Discriminator, section 5, whose intra FID is the mean over the
    classes, of 5000 generated images each. Of fewer images an FID is biased upwards; here a class has as many as were
    asked of it.

    Args:
        real, generated: features (N, d) and (n, d), on one device.
        real_labels, labels: int64 (N,) and (n,), on the CPU.

    Returns:
        The classes that have two real images or more; NaN for one that has fewer generated images than two.
    """
    distances = {}
    for label in real_labels.unique().tolist():
        ours, theirs = ((one == label).nonzero()[:, 0] for one in (real_labels, labels))
        if len(ours) < FEWEST:
            continue
        sides = real[ours.to(real.device)], generated[theirs.to(generated.device)]
        distances[label] = frechet_distance(*sides) if len(theirs) >= FEWEST else math.nan
    return distances


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Return the FID of features (n, d) and (m, d), each 2 or more, accurate also where they are fewer than d.

    With the centred features X = Q R, S = R^T R / (n - 1), and the trace of (S1 S2)^(1/2) is the sum of the singular
    values of R1 R2^T, divided by the root of (n - 1) (m - 1). It equals `gantry.evaluation.metrics.fid.fid` up to
    the rounding that is described there, and costs little where a class has few images and many features.
    """
    means, roots = [], []
    for features in (real.double(), generated.double()):
        means.append(features.mean(0))
        roots.append(torch.linalg.qr(features - means[-1], mode="r").R / math.sqrt(len(features) - 1))
    difference = means[0] - means[1]
    traces = roots[0].square().sum() + roots[1].square().sum()
    return (difference @ difference + traces - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum()).item()


def _missing(name: str, classes: Sequence[str], which: str, left_out: bool) -> str:
    shown = ", ".join(classes[:NAMED]) + (f" and {len(classes) - NAMED} more" if len(classes) > NAMED else "")
    effect = "is without the classes" if left_out else "has no value: there are classes"
    return f"{name} {effect} of fewer than {FEWEST} {which} images: {shown}"


def _singular(name: str, dimensions: int, real: Sequence[int], generated: Sequence[int]) -> list[str]:
    """Return what speaks against the mean of classes with so many real and generated images."""
    if not real or min(*real, *generated) > dimensions:
        return []
    return [
        f"{name}: classes have {min(real)} to {max(real)} real and {min(generated)} to {max(generated)} generated "
        f"images, and there are {dimensions} features: covariances of no more images than features are singular, "
        "and the distances biased upwards"
    ]
