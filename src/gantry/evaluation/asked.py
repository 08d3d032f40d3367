"""The classes that were asked of images, as indices into the classes of the data that they are measured against."""

import logging
from collections.abc import Sequence

import numpy as np

from gantry.data.images import ImageSet

logger = logging.getLogger(__name__)


def indices_among(names: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
    """Return the place of each name among `classes`, int64 (len(names),); None where one of them is no class.

    Classes are matched by name; where they are plain numbers below len(classes), as labels in arrays are, by index.
    """
    numbers = {str(index): index for index in range(len(classes))}
    for places in ({name: index for index, name in enumerate(classes)}, numbers):
        if all(name in places for name in names):
            return np.array([places[name] for name in names], np.int64)
    return None


def labels_among(data: ImageSet, classes: Sequence[str]) -> np.ndarray | None:
    """Return the labels of `data`, int64 (n,), as indices into `classes`; None where there are no such labels.

    Sub-folders that are no classes (samples in parts, say) give no labels, with a warning.
    """
    if data.labels is None:
        return None
    names = data.classes or tuple(map(str, range(int(data.labels.max()) + 1)))
    places = indices_among(names, classes)
    if places is None:
        logger.warning(
            "The labels of %s (%s) are not classes of the real images (%s): they are not used",
            data.name,
            ", ".join(names[:10]),
            ", ".join(classes[:10]),
        )
        return None
    labels: np.ndarray = places[data.labels]
    return labels


def can_classify(data: ImageSet) -> bool:
    """Return True for images with labels of two classes or more, 20 at least, of which a classifier can learn."""
    return data.labels is not None and len(data.labels) >= 20 and len(set(data.labels.tolist())) > 1
