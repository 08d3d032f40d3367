"""Reads the option `data.image_size`, a number for squares or [height, width], and crops to its proportions."""

import math
from collections.abc import Sequence

from gantry.core.errors import UserError

Size = int | Sequence[int]
Box = tuple[int, int, int, int]


def sides(size: Size) -> tuple[int, int]:
    """Return (height, width) in pixels of a size: a number for a square, or the pair of height and width.

    Raises:
        UserError: it is neither, or a side is below 1.
    """
    listed = isinstance(size, Sequence) and not isinstance(size, str)
    pair = [size, size] if not listed else list(size)  # type: ignore[arg-type]
    if len(pair) != 2 or not all(type(side) is int and side >= 1 for side in pair):
        shown = list(size) if listed else repr(size)  # type: ignore[arg-type]
        raise UserError(
            "data.image_size: must be a number of pixels for a square, or [height,width] such as "
            f"data.image_size=[48,64], not {shown}"
        )
    return pair[0], pair[1]  # type: ignore[return-value]


def as_given(height: int, width: int) -> int | list[int]:
    """Return a size as `data.image_size` has it: one number for a square, or else [height, width]."""
    return height if height == width else [height, width]


def central(height: int, width: int, wanted: tuple[int, int]) -> Box:
    """Return the box (left, top, right, bottom) of the largest central part in the proportions of `wanted`.

    Args:
        height, width: of the whole image, pixels.
        wanted: (height, width) whose proportions the part has, up to rounding to whole pixels.
    """
    tall, wide = wanted
    if width * tall >= height * wide:
        part = max(1, (height * wide + tall // 2) // tall), height
    else:
        part = width, max(1, (width * tall + wide // 2) // wide)
    left, top = (width - part[0]) // 2, (height - part[1]) // 2
    return left, top, left + part[0], top + part[1]


def proportions(height: int, width: int) -> str:
    """Return the proportions in words: "square", or width to height in lowest terms, such as "4:3"."""
    shared = math.gcd(height, width)
    return "square" if height == width else f"{width // shared}:{height // shared}"
