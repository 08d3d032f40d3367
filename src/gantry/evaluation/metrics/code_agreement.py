"""How well the categorical codes of a generator's latents agree with the classes of its images."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gantry.evaluation.metrics.asked_class import standard_error
from gantry.evaluation.metrics.class_shares import names_of
from gantry.evaluation.metrics.metric import CODES, LABELS, Found, Inputs, Metric

VALUE = "code_agreement"


def metric() -> Metric:
    """Return the metric `code_agreement`, 0 to 1, higher is better: that of the code that agrees best."""
    return Metric(VALUE, True, compute=_compute, needs=(LABELS, CODES), spread=_spread)


def _compute(inputs: Inputs) -> Found:
    names = names_of(inputs.data.classes or (), inputs.logits.shape[1])
    predicted = torch.cat([part.argmax(1) for part in inputs.logits.split(4096)])
    found = {name: code_agreement(code, predicted, len(names)) for name, code in inputs.codes.items()}
    details = {
        name: {"agreement": share, "classes": {str(value): names[label] for value, label in matching.items()}}
        for name, (share, matching) in found.items()
    }
    return Found({VALUE: max(share for share, _ in found.values())}, details)


def _spread(inputs: Inputs, values: Mapping[str, float]) -> dict[str, float]:
    return {VALUE: standard_error(values[VALUE], len(inputs.logits))}


def code_agreement(code: Tensor, predicted: Tensor, n_classes: int) -> tuple[float, dict[int, int]]:
    """Return the share of images whose code and class go together, in the one-to-one matching where most do.

    Chen et al. 2016, InfoGAN, section 7.2, match the values of a code to digits and find an error of 5 % where Q, which
    tells the code, classifies digits; no published code says how. This is of generated images, since a trained
    generator comes without Q. The matching is the assignment of the largest sum (Kuhn 1955, The Hungarian Method), of
    which a value of the code and a class each occur in one pair at most: a class that two values share counts for one.
    Chosen on the same images, it lies above 1 / n_classes for a code that says nothing: about 0.13 of 2,000 images of
    10 classes.

    Args:
        code: of each image, int64 (n,), from 0.
        predicted: the class of each image by the classifier of the data set, int64 (n,) in [0, n_classes).
        n_classes: number of classes.

    Returns:
        The share, 0 to 1, and the class that each matched value of the code goes with.
    """
    from scipy.optimize import linear_sum_assignment

    values = int(code.max()) + 1
    counts = torch.bincount(code * n_classes + predicted, minlength=values * n_classes).view(values, n_classes).numpy()
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(np.sum(counts[rows, columns]) / len(code)), dict(zip(rows.tolist(), columns.tolist(), strict=True))
