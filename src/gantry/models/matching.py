"""Matches the layers of a network with those of a trained one, which may have another size, by name and shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

PARAMETRIZED = ".parametrizations."  # in the names of what torch.nn.utils.parametrize keeps
BIAS = "bias"

Layer = dict[str, Tensor]  # a layer's tensors by their names in it
Score = tuple[int, int]  # values that are taken, and layers among them that keep their name
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Match:
    """Which layers of a network take the values of which layers of a trained one.

    Attributes:
        layers: the trained network's layer by the network's own.
        fresh: the network's other layers, which keep the values they began with.
        unused: the trained network's other layers.
        tensors: the trained network's tensor by the network's own; a bias that the trained layer lacks is not in it.
    """

    layers: dict[str, str]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    tensors: dict[str, str]


def match(mine: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> Match:
    """Match the layers of two networks of one class, given as their `state_dict`.

    A layer is taken whole: all its tensors have the same shapes in both, except that either may lack a bias. Layers
    keep their names. Where a sequence has more layers in one network than in the other, they keep their order, and
    move by no more places than it has more. Of all ways to do so, that is chosen in which the most values are taken,
    and then that in which the most layers keep their number. So the layers of a network for larger images that do the
    same as in one for smaller images are found, wherever the additional ones are: in DCGAN's generator those nearest
    the image, in its discriminator too, in the residual generator all but the last block.
    """
    own, others = _layers(mine), _layers(trained)
    found: dict[str, str] = {}
    for stem, names in _chains(own).items():
        found |= dict(_aligned(own, others, names, _chains(others).get(stem, [])))
    tensors = {
        _joined(name, inner): _joined(other, inner)
        for name, other in found.items()
        for inner in own[name]
        if inner in others[other]
    }
    return Match(
        found,
        tuple(name for name in own if name not in found),
        tuple(name for name in others if name not in found.values()),
        tensors,
    )


def layer_of(tensor: str) -> str:
    """Return the name of the layer that a tensor belongs to: up to the last number of a sequence, or its module's.

    `blocks.0.conv1.weight` belongs to `blocks.0`, `dense.bias` to `dense`; a tensor of the network itself is a layer.
    """
    owner, mark, _ = tensor.partition(PARAMETRIZED)
    parts = owner.split(".") if mark else owner.split(".")[:-1]
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[-1] + 1] if numbers else parts) or tensor


def _layers(state: Mapping[str, Tensor]) -> dict[str, Layer]:
    """Return the layers of a network in the order of its tensors."""
    layers: dict[str, Layer] = {}
    for name, value in state.items():
        layer = layer_of(name)
        layers.setdefault(layer, {})[name[len(layer) :].lstrip(".")] = value
    return layers


def _joined(layer: str, inner: str) -> str:
    return f"{layer}.{inner}" if inner else layer


def _chains(layers: Mapping[str, Layer]) -> dict[tuple[str, ...], list[str]]:
    """Return the names of layers that differ in their numbers alone, in order, by what else is in the name."""

    def stem(name: str) -> tuple[str, ...]:
        return tuple("" if part.isdecimal() else part for part in name.split("."))

    def place(name: str) -> list[tuple[int, str]]:
        return [(len(part), part) for part in name.split(".") if part.isdecimal()]  # as numbers are ordered

    ordered = sorted(layers, key=lambda name: (stem(name), place(name)))
    return {key: list(names) for key, names in groupby(ordered, key=stem)}


def _aligned(own: Mapping[str, Layer], others: Mapping[str, Layer], mine: list[str], trained: list[str]) -> Pairs:
    """Return the best pairs of two chains in order: the longest common subsequence, weighted by values."""
    more = len(trained) - len(mine)
    best: list[tuple[Score, Pairs]] = [((0, 0), ())] * (len(trained) + 1)
    for number, name in enumerate(mine):
        before, row = best, [best[0]]
        for place, other in enumerate(trained):
            choices = [before[place + 1], row[place]]
            if min(0, more) <= place - number <= max(0, more) and _fits(own[name], others[other]):
                (values, kept), pairs = before[place]
                taken = sum(value.numel() for value in own[name].values())
                choices.append(((values + taken, kept + (name == other)), (*pairs, (name, other))))
            row.append(max(choices, key=lambda choice: choice[0]))
        best = row
    return best[-1][1]


def _fits(layer: Layer, other: Layer) -> bool:
    differ = layer.keys() ^ other.keys()
    shared = layer.keys() & other.keys()
    return (
        bool(shared)
        and all(name.rpartition(".")[2] == BIAS for name in differ)
        and all(_alike(layer[name], other[name]) for name in shared)
    )


def _alike(value: Tensor, other: Tensor) -> bool:
    """Return True where `other`, which a file may have made anything, can be copied to `value`."""
    plain = other.layout == torch.strided and not other.is_meta and not other.is_quantized
    return plain and value.shape == other.shape and value.is_floating_point() == other.is_floating_point()
