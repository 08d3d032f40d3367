"""The Inception Score, and its standard deviation between draws."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gantry.evaluation.metrics.metric import LOGITS, Inputs, Metric
from gantry.evaluation.placement import placed

SPLITS = 10
SEED = 2020  # torch-fidelity's


def metric() -> Metric:
    """Return the metric `inception_score`, higher is better, with `inception_score_std`, its std over the splits."""
    return Metric(
        "inception_score",
        higher_is_better=True,
        compute=_compute,
        spread=lambda inputs, values: {"inception_score": inception_score_spread(values["inception_score_std"])},
        needs=(LOGITS,),
        values=("inception_score", "inception_score_std"),
    )


def _compute(inputs: Inputs) -> dict[str, float]:
    mean, std = inception_score(placed(inputs.extractor.device, inputs.logits)[0])
    return {"inception_score": mean, "inception_score_std": std}


def inception_score(logits: Tensor) -> tuple[float, float]:
    """Return the Inception Score of generated `logits` (n, k), n at least 10, and its std over 10 splits.

    Salimans et al. 2016, Improved Techniques for Training GANs, section 4: exp of the mean divergence of
    p(y|x) from p(y), 1 to k, higher is better. By torch-fidelity, one split at a time, shuffled as it shuffles.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    order = np.random.RandomState(SEED).permutation(len(logits))
    bounds = [split * len(logits) // SPLITS for split in range(SPLITS + 1)]
    scores = [
        isc_features_to_metric(logits[torch.from_numpy(order[begin:end]).to(logits.device)], splits=1, shuffle=False)[
            KEY_METRIC_ISC_MEAN
        ]
        for begin, end in pairwise(bounds)
    ]
    return float(np.mean(scores)), float(np.std(scores))


def inception_score_spread(std: float) -> float:
    """Return the spread of an Inception Score, the mean over ten splits with standard deviation `std`."""
    return std / math.sqrt(SPLITS - 1)
