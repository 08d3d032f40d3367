"""Understands the labels beside images in an array file: numbers, names, or one-hot rows."""

from typing import NamedTuple

import numpy as np

MOST_CLASSES = 65_536  # larger integers are not taken for labels


class ArrayLabels(NamedTuple):
    """ArrayLabels of n images.

    `numbers` has for each image the index of its class in `classes`, which are the classes' names.
    """

    numbers: list[int]
    classes: list[str]


def might_be(dims: tuple[int, ...], dtype: np.dtype, count: int) -> bool:
    """Return True if an array of this shape and type may be the labels of `count` images."""
    return dtype.kind in "biufUS" and len(_squeezed(dims, count)) in (1, 2) and dims[0] in (1, count)


def understood(array: np.ndarray, count: int) -> ArrayLabels | None:
    """Return the labels of `count` images that an array holds; None where it holds none.

    Args:
        array: (count,): integers or whole numbers from 0, truth values, or names; or (count, k): one-hot rows of k
            classes. Axes of length 1 do not count.
        count: at least 1.
    """
    array = array.reshape(_squeezed(array.shape, count))
    if array.shape == (count,):
        return _names(array) if array.dtype.kind in "US" else _numbers(array)
    if array.ndim == 2 and len(array) == count and array.shape[1] > 1 and array.dtype.kind in "biuf":
        ones = array == 1
        if (ones.sum(1) == 1).all() and not array[~ones].any():
            return ArrayLabels(ones.argmax(1).tolist(), _plain(array.shape[1]))
    return None


def _squeezed(dims: tuple[int, ...], count: int) -> tuple[int, ...]:
    inner = tuple(length for length in dims if length != 1)
    return (1, *inner) if count == 1 else inner


def _names(array: np.ndarray) -> ArrayLabels | None:
    names = [str(name, errors="replace") if isinstance(name, bytes) else str(name) for name in array.tolist()]
    if all(name.isdecimal() for name in names):
        return _numbers(np.array(names, dtype=object).astype(float))
    classes = sorted(set(names))
    index = {name: number for number, name in enumerate(classes)}
    return ArrayLabels([index[name] for name in names], classes)


def _numbers(array: np.ndarray) -> ArrayLabels | None:
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all() or (array != np.rint(array)).any():
        return None
    if array.min() < 0 or array.max() >= MOST_CLASSES:
        return None
    numbers = array.astype(np.int64)
    return ArrayLabels(numbers.tolist(), _plain(int(numbers.max()) + 1))


def _plain(count: int) -> list[str]:
    return [str(number) for number in range(count)]
