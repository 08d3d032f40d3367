"""How often each class of a labelled data set occurs, by a classifier's verdicts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gantry.evaluation.metrics.metric import LABELS, Found, Inputs, Metric

COVERED = 0.1  # share of its real share at which a class counts as covered


def metric() -> Metric:
    """`modes`, the number of classes covered, higher is better; beside it each class's shares."""
    return Metric(
        "classes", higher_is_better=True, compute=_compute, needs=(LABELS,), values=("modes",), first_draw=True
    )


def _compute(inputs: Inputs) -> Found:
    assert inputs.real.predicted is not None
    verdicts = torch.cat([part.argmax(1) for part in inputs.logits.split(4096)])
    shares = class_shares(inputs.real.predicted, verdicts, inputs.data.classes or (), inputs.logits.shape[1])
    return Found({"modes": float(classes_covered(inputs.real.predicted, verdicts))}, shares)


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


def class_shares(real: Tensor, generated: Tensor, known: Sequence[str], count: int) -> dict[str, tuple[float, float]]:
    """Of each class its share, 0 to 1, of the real and of the generated images.

    Args:
        real, generated: the classes that the classifier says, int64 (n,) and (m,).
        known: the classes' names; numbers stand for those beyond.
        count: how many classes the classifier knows.
    """
    count = max(count, len(known))
    shares = [(torch.bincount(says, minlength=count).double() / len(says)).tolist() for says in (real, generated)]
    names = [*known, *map(str, range(len(known), count))]
    return dict(zip(names, zip(*shares, strict=True), strict=True))
