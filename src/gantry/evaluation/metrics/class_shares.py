"""How often each class of a labelled data set occurs, by a classifier's verdicts."""

from collections.abc import Sequence

import torch
from torch import Tensor


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
