"""Finds the labels of the classes that a user asks for, and arranges images of several classes in a grid."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np

from gantry.core.errors import UserError
from gantry.core.text import did_you_mean
from gantry.models.labels import Classes, LabelSource

MOST_ROWS = 16  # classes in a grid where none are named
MOST_NAMES = 30  # of a message
RANGE = re.compile(r"(.+?)\.\.(.+)", re.DOTALL)


def label_of(classes: Classes, asked: int | str, option: str = "class") -> int:
    """Return the label of the class of that name, or of that number where no class has that name.

    Raises:
        UserError: there is no such class; names the valid ones.
    """
    text = str(asked)
    if text in classes.names:
        return classes.names.index(text)
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text) < len(classes):
        return int(text)
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    raise UserError(f"{option}={shown}: no such class{did_you_mean(text, classes.names)} (valid: {valid(classes)})")


def valid(classes: Classes) -> str:
    """Return which classes there are, for a message."""
    numbers = f"0 to {len(classes) - 1}"
    if list(classes.names) == [str(label) for label in range(len(classes))]:
        return numbers
    more = f" and {len(classes) - MOST_NAMES} more" if len(classes) > MOST_NAMES else ""
    return f"{', '.join(classes.names[:MOST_NAMES])}{more}; or {numbers}"


def labels_of(classes: Classes, asked: Sequence[int | str], option: str = "classes") -> tuple[int, ...]:
    """Return the labels of several classes; `a..b` stands for all classes from a to b.

    Raises:
        UserError: see `label_of`.
    """
    labels: list[int] = []
    for one in asked:
        ends = RANGE.fullmatch(str(one)) if str(one) not in classes.names else None
        first, last = (label_of(classes, end, option) for end in (ends.groups() if ends else (one, one)))
        labels += range(first, last + 1) if first <= last else range(first, last - 1, -1)
    return tuple(labels)


def said(classes: Classes, label: int) -> str:
    """Return a class's number with its name where that is another, `3 (cat)`."""
    return str(label) if classes.names[label] == str(label) else f"{label} ({classes.names[label]})"


def in_turn(classes: Classes, labels: Sequence[int] | None = None) -> LabelSource:
    """Return the source of labels that images have in turn; None: all of them."""
    return LabelSource(classes.shares, tuple(range(len(classes)) if labels is None else labels))


def class_rows(count: int, classes: int) -> tuple[int, np.ndarray]:
    """Arrange images whose classes come in turn in a grid with a class a row, or several rows where classes are few.

    Args:
        count: of the images, which are rounded up to full rows.
        classes: number of classes, at least 1.

    Returns:
        The columns of the grid, and the images' numbers by rows, int64 (at least `count`,): number i is of class
        i modulo `classes`.
    """
    each = math.ceil(count / classes)
    columns = min(math.ceil(math.sqrt(count)), each)
    each = math.ceil(each / columns) * columns
    return columns, (np.arange(each) * classes + np.arange(classes)[:, None]).ravel()


def mixtures(labels: Sequence[int], n_classes: int, steps: int) -> np.ndarray:
    """Return the labels of a walk from class to class, as weights of the classes.

    Args:
        labels: of the classes, at least 2.
        n_classes: number of classes.
        steps: from each class to the next, at least 1.

    Returns:
        float32 ((len(labels) - 1) * steps + 1, n_classes), rows that add up to 1.
    """
    corners = np.eye(n_classes, dtype=np.float32)[list(labels)]
    share = (np.arange(steps, dtype=np.float32) / np.float32(steps))[:, None]
    between = [(1 - share) * one + share * other for one, other in itertools.pairwise(corners)]
    return np.concatenate([*between, corners[-1:]])
