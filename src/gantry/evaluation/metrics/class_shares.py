"""Computes the share of each class of a labelled data set from a classifier's predictions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gantry.evaluation.metrics.metric import LABELS, Found, Inputs, Metric

COVERED = 0.1  # share of its real share at which a class counts as covered


def metric() -> Metric:
    """Return the metric `modes`, the number of classes covered, higher is better, with each class's shares."""
    return Metric(
        "classes", higher_is_better=True, compute=_compute, needs=(LABELS,), values=("modes",), first_draw=True
    )


def _compute(inputs: Inputs) -> Found:
    assert inputs.real.predicted is not None
    verdicts = torch.cat([part.argmax(1) for part in inputs.logits.split(4096)])
    shares = class_shares(inputs.real.predicted, verdicts, inputs.data.classes or (), inputs.logits.shape[1])
    return Found({"modes": float(classes_covered(inputs.real.predicted, verdicts))}, shares)


def classes_covered(real: Tensor, generated: Tensor) -> int:
    """Count the real classes that the generated images cover, 0 to the number of classes.

    A class is covered if its share of the generated images is at least a tenth of its share of the real ones: low
    enough to require presence, not balance; high enough to exclude occasional misclassifications.

    Args:
        real, generated: the classes the classifier predicts, int64 (n,) and (m,).
    """
    classes = int(max(real.max(), generated.max())) + 1
    shares = torch.bincount(real, minlength=classes) / len(real)
    drawn = torch.bincount(generated, minlength=classes) / len(generated)
    return int(((shares > 0) & (drawn >= COVERED * shares)).sum())


def class_shares(real: Tensor, generated: Tensor, names: Sequence[str], count: int) -> dict[str, tuple[float, float]]:
    """Return each class's share, 0 to 1, of the real and of the generated images.

    Args:
        real, generated: the classes the classifier predicts, int64 (n,) and (m,).
        names: the classes' names; further classes are named by number.
        count: number of classes of the classifier.
    """
    names = names_of(names, count)
    count = len(names)
    shares = [(torch.bincount(says, minlength=count).double() / len(says)).tolist() for says in (real, generated)]
    return dict(zip(names, zip(*shares, strict=True), strict=True))


def names_of(names: Sequence[str], count: int) -> list[str]:
    """Return the names of `count` classes or more; further ones than there are `names` are named by number."""
    return [*names, *map(str, range(len(names), count))]
