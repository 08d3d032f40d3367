"""The FID of each class where no class was asked for: a classifier sorts the generated images.

It is the intra-class FID of generators without labels, for the comparison with those that take labels
(`gantry.evaluation.metrics.intra_fid`), and has another name since it favours the generator: an image that is of no
class that one would recognise counts for the class that it resembles most, and none counts for a class that it was
meant for and missed.
"""

import torch

from gantry.evaluation.metrics.intra_fid import of_classes
from gantry.evaluation.metrics.metric import LABELS, Found, Inputs, Metric


def metric() -> Metric:
    """Return the metric `class_fid`, lower is better, with the FID of each class."""
    return Metric("class_fid", False, compute=_compute, needs=(LABELS,))


def _compute(inputs: Inputs) -> Found:
    verdicts = torch.cat([part.argmax(1) for part in inputs.logits.split(4096)])
    return of_classes("class_fid", inputs, verdicts, asked=False)
