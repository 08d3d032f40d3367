"""Faster forms of torch-fidelity's Inception, equal to it up to float32 rounding: one for CPUs, one for GPUs."""

import re
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gantry.evaluation.extractors.tf1_resize import interpolate_like_tensorflow1, resize_like_tensorflow1

ENDS = {64: "MaxPool_1", 192: "MaxPool_2", 768: "Mixed_6e", 2048: "AvgPool"}  # the last part of each layer's network
LAST = 2048
SIDE = 299
STAGE = re.compile(r"(?P<branch>branch\w*?)(?:_(?P<stage>\d)[ab]?)?")  # a convolution's name in a block
FUSED = "template <typename T> T biased_relu(T x, T bias) { T y = x + bias; return y < T(0) ? T(0) : y; }"


def folded(reference: nn.Module, layer: int, device: torch.device) -> nn.Module:
    """Return the faster form of `reference` for a device; its weights are copied, not shared.

    Args:
        reference: torch-fidelity's network with the weights (`gantry.evaluation.extractors.inception.plain`).
        layer: 64, 192, 768 or 2048.
        device: a GPU of CUDA gets `Merged`, any other device `Folded`.
    """
    return (Merged if device.type == "cuda" else Folded)(reference, layer)


class Folded(nn.Module):
    """Batch norm folded into the convolutions, channels last, resizing by axis: twice as fast on a CPU.

    Its features differ from the reference's by float32 rounding, about 1e-6 of their size.
    """

    def __init__(self, reference: nn.Module, layer: int) -> None:
        super().__init__()
        self.body = _folded(nn.Sequential(*_parts(reference, layer))).to(memory_format=torch.channels_last)
        self.head = _head(reference, layer)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return _outputs(self.body(resize_like_tensorflow1(images, SIDE).sub_(128).div_(128)), self.head)


class Merged(nn.Module):
    """Batch norm folded into the convolutions, contiguous, with few passes over memory, for a GPU.

    Convolutions of the same input with kernels of one pixel are one convolution; of one behind an average pooling the
    mean is taken afterwards, which is the same linear map, of fewer channels. Bias and ReLU are one kernel. Images are
    scaled before they are resized.
    """

    def __init__(self, reference: nn.Module, layer: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*map(_merged, _parts(reference, layer))).to(memory_format=torch.contiguous_format)
        self.head = _head(reference, layer)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return _outputs(self.body(interpolate_like_tensorflow1((images.float() - 128) / 128, SIDE)), self.head)


def _parts(reference: nn.Module, layer: int) -> list[nn.Module]:
    children = dict(reference.named_children())
    names = list(children)
    used = [children[name] for name in names[: names.index(ENDS[layer]) + 1]]
    return used if layer == LAST else [*used, nn.AdaptiveAvgPool2d(1)]


def _head(reference: nn.Module, layer: int) -> nn.Parameter | None:
    return reference.get_submodule("fc").get_parameter("weight") if layer == LAST else None


def _outputs(pooled: Tensor, head: Tensor | None) -> tuple[Tensor, ...]:
    features = pooled.flatten(1)
    return (features,) if head is None else (features, features.mm(head.T))


def _fused(module: nn.Module) -> nn.Conv2d | None:
    """Return the convolution of a `BasicConv2d` with its batch norm folded in; None for other modules."""
    parts = dict(module.named_children())
    if isinstance(norm := parts.get("bn"), nn.BatchNorm2d) and isinstance(conv := parts["conv"], nn.Conv2d):
        return fuse_conv_bn_eval(conv, norm)
    return None


def _folded(module: nn.Module) -> nn.Module:
    """Fold each batch norm of `module` into the convolution before it, in place."""
    for name, child in module.named_children():
        if (conv := _fused(child)) is not None:
            setattr(module, name, nn.Sequential(conv, nn.ReLU(inplace=True)))
        else:
            _folded(child)
    return module


def _merged(part: nn.Module) -> nn.Module:
    if (conv := _fused(part)) is not None:
        return _Convolution([conv])
    return _Block(part) if list(part.children()) else part


@cache
def _one_kernel() -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return the kernel that adds a bias and applies ReLU, compiled at first use; None where that does not work."""
    try:
        kernel: Callable[[Tensor, Tensor], Tensor] = torch.cuda.jiterator._create_jit_fn(FUSED)
        kernel(torch.zeros(1, 1, device="cuda"), torch.zeros(1, 1, device="cuda"))
    except (RuntimeError, AttributeError, OSError):  # not of CUDA; no compiler, or nowhere to keep what it makes
        return None
    return kernel


def biased_relu(x: Tensor, bias: Tensor) -> Tensor:
    """Return max(x + bias, 0) of `x` (n, C, H, W) and `bias` (1, C, 1, 1), NaN where it is."""
    kernel = _one_kernel() if x.is_cuda else None
    return torch.relu_(x + bias) if kernel is None else kernel(x, bias)


class _Convolution(nn.Module):
    """Convolutions of one input and one geometry as one; gives each of its `widths` of channels, after bias and ReLU.

    The last one's mean over 3 x 3 pixels is taken first if `pooled`.
    """

    def __init__(self, convolutions: Sequence[nn.Conv2d], pooled: bool = False) -> None:
        super().__init__()
        first = convolutions[0]
        self.weight = nn.Parameter(torch.cat([conv.weight for conv in convolutions]))
        biases = [conv.bias for conv in convolutions if conv.bias is not None]
        self.bias = nn.Parameter(torch.cat(biases)[None, :, None, None])
        self.widths = [conv.out_channels for conv in convolutions]
        self.stride, self.padding, self.pooled = first.stride, first.padding, pooled

    def forward(self, x: Tensor) -> Tensor:
        return self.split(x)[0]

    def split(self, x: Tensor) -> list[Tensor]:
        made = F.conv2d(x, self.weight, None, self.stride, self.padding)
        parts = list(made.split(self.widths, 1))
        if self.pooled:
            parts[-1] = F.avg_pool2d(parts[-1], 3, 1, 1, count_include_pad=False)
        return [biased_relu(part, bias) for part, bias in zip(parts, self.bias.split(self.widths, 1), strict=True)]


class _Block(nn.Module):
    """A block of branches, whose outputs are joined; a branch has stages, the last one perhaps in two halves."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        branches: dict[str, dict[int, list[nn.Conv2d]]] = {}
        for name, child in block.named_children():
            found, conv = STAGE.fullmatch(name), _fused(child)
            assert found is not None, name
            assert conv is not None, name
            stages = branches.setdefault(found["branch"], {})
            stages.setdefault(int(found["stage"] or 1), []).append(conv)
        self.strided = "branch_pool" not in branches  # its input's maximum is a branch without a convolution
        highest = type(block).__name__ == "InceptionE_2"  # a convolution of the maximum, which does not commute with it
        self.of_maximum = _Convolution(branches.pop("branch_pool")[1]) if highest else None
        self.heads = [name for name, stages in branches.items() if stages[1][0].kernel_size == (1, 1)]
        together = [branches[name].pop(1)[0] for name in self.heads]
        self.first = _Convolution(together, pooled="branch_pool" in self.heads)
        self.names = list(branches)
        self.later = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(_Convolution([conv]) for conv in stage) for stage in stages.values())
            for stages in branches.values()
        )

    def forward(self, x: Tensor) -> Tensor:
        begun = dict(zip(self.heads, self.first.split(x), strict=True))
        joined: list[Tensor] = []
        for name, stages in zip(self.names, self.later, strict=True):
            made = [begun.get(name, x)]
            for stage in stages:  # type: ignore[attr-defined]  # a ModuleList
                made = [conv(made[0]) for conv in stage]
            joined += made
        if self.strided:
            joined.append(F.max_pool2d(x, 3, 2))
        if self.of_maximum is not None:
            joined.append(self.of_maximum(F.max_pool2d(x, 3, 1, 1)))
        return torch.cat(joined, 1)
