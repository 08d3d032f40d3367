"""Reads pixels of images, differentiably any number of times, and with the same gradient to the bit at every run.

The gradient of a read adds numbers at the pixels that were read. On a GPU torch's own operations (`grid_sample`,
`gather`, indexing) add them in any order, and a sum of floating-point numbers depends on the order. There we add whole
numbers, whose sum does not. torch's `grid_sample` has no second derivative either, which R1 needs.
"""

from typing import Any

import torch
from torch import Tensor

STEPS = 2.0**40  # in the largest number of an image: so finely numbers are rounded, and 2^22 of them can be added


def read(images: Tensor, index: Tensor) -> Tensor:
    """Return the pixels (B, C, M) of images (B, C, H, W) at index (B, M), int64 in [0, H * W): row by row."""
    pixels: Tensor = _Read.apply(images.flatten(2), index)
    return pixels


def bilinear(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the values of images between their pixels, and of black (0) outside.

    As torch's `grid_sample` with `padding_mode="zeros"`, but for positions in pixels; differentiable with respect to
    the images, not to the positions.

    Args:
        images: (B, C, H, W).
        x, y: positions (B, M); 0 is the centre of the leftmost, and of the topmost, pixel.

    Returns:
        (B, C, M).
    """
    height, width = images.shape[2:]
    left, top = x.floor(), y.floor()
    indices, weights = [], []
    for row, share_of_row in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, share in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            indices.append(row.clamp(0, height - 1) * width + column.clamp(0, width - 1))
            weights.append(share_of_row * share * inside)
    corners = read(images, torch.cat(indices, 1).long()) * torch.cat(weights, 1)[:, None]
    return corners.unflatten(2, (4, -1)).sum(2)


def summed(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Add values (B, C, M) at index (B, M) of `count` pixels, as whole numbers; the order does not matter.

    Where a value of an image is not finite, none of its sums is.
    """
    step = values.abs().amax((1, 2), keepdim=True).double().clamp(min=1e-300) / STEPS
    whole = (values.double() / step).round().long()
    return (_scattered(whole, index, count) * step).to(values.dtype)


def _scattered(values: Tensor, index: Tensor, count: int) -> Tensor:
    return values.new_zeros(*values.shape[:2], count).scatter_add_(2, _for_channels(index, values), values)


def _for_channels(index: Tensor, values: Tensor) -> Tensor:
    return index[:, None].expand(-1, values.shape[1], -1)


class _Read(torch.autograd.Function):
    """Pixels (B, C, N) and an index (B, M) to (B, C, M)."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = pixels.shape[2]
        return pixels.gather(2, _for_channels(index, pixels))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        return _Add.apply(gradient, index, ctx.count), None


class _Add(torch.autograd.Function):
    """The transpose of `_Read`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(index)
        in_order = values.device.type == "cpu"
        return _scattered(values, index, count) if in_order else summed(values, index, count)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        return _Read.apply(gradient, index), None, None
