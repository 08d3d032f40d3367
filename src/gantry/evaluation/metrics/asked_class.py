"""The share of generated images that a classifier takes for the class that was asked of them."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gantry.evaluation.metrics.class_shares import names_of
from gantry.evaluation.metrics.metric import ASKED, LABELS, Found, Inputs, Metric

ACCURACY = "asked_class_accuracy"


def metric() -> Metric:
    """Return the metric `asked_class_accuracy`, 0 to 1, higher is better, with the accuracy of each class."""
    return Metric("asked_class", True, compute=_compute, needs=(LABELS, ASKED), spread=_spread, values=(ACCURACY,))


def _compute(inputs: Inputs) -> Found:
    assert inputs.asked is not None
    accuracy, by_class = asked_class_accuracy(inputs.logits, inputs.asked)
    names = names_of(inputs.data.classes or (), inputs.logits.shape[1])
    return Found({ACCURACY: accuracy}, {names[label]: found for label, found in by_class.items()})


def _spread(inputs: Inputs, values: Mapping[str, float]) -> dict[str, float]:
    return {ACCURACY: standard_error(values[ACCURACY], len(inputs.logits))}


def asked_class_accuracy(logits: Tensor, asked: Tensor) -> tuple[float, dict[int, dict[str, float]]]:
    """Return the share of images, 0 to 1, whose class by the classifier's logits (n, k) is the one asked, int64 (n,).

    A classifier trained on real images, applied to conditional samples: the "GAN-test" of Shmelkov et al. 2018, How
    good is my GAN?, section 3. It rises with images that are typical of their class, however alike they are.

    Returns:
        The share, and by class its share (`accuracy`) and number of images (`generated`), where any was asked for.
    """
    predicted = torch.cat([part.argmax(1) for part in logits.split(4096)])
    right = predicted == asked
    by_class = {
        int(label): {"accuracy": float(right[asked == label].double().mean()), "generated": int((asked == label).sum())}
        for label in asked.unique()
    }
    return right.double().mean().item(), by_class


def standard_error(accuracy: float, count: int) -> float:
    """Return the standard deviation of an accuracy over draws of `count` images (binomial)."""
    return math.sqrt(accuracy * (1 - accuracy) / count)
