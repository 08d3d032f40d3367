"""Defines extractors, which map images to the features and logits that metrics use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gantry.core.determinism import whole_float32
from gantry.core.errors import UserError
from gantry.data.images import ImageSet


class Features(NamedTuple):
    """The features and logits of n images, float32 on the CPU.

    `features` (n, d) and `logits` (n, k), where k is 0 if the network classifies nothing.
    """

    features: Tensor
    logits: Tensor


class Extractor(Protocol):
    """The interface of a feature extractor.

    Attributes:
        name: its part of the scores' names ("inception", "classifier").
        digest: sha256 of the weights, hexadecimal.
        official: the papers' own network, layer and weights, so that its scores have the papers' names.
        labelled: the logits are those of the data set's own classes.
        has_logits: it returns logits; without them there is no Inception Score.
        resize: how it brings images to its own input size.
        arithmetic: "plain" as published; "folded" with the same value up to rounding, computed faster.
        details: further facts to record with its scores, such as its accuracy.
        caveats: what speaks against its scores, a sentence each.
    """

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def official(self) -> bool: ...
    @property
    def labelled(self) -> bool: ...
    @property
    def has_logits(self) -> bool: ...
    @property
    def resize(self) -> str: ...
    @property
    def arithmetic(self) -> str: ...
    @property
    def details(self) -> Mapping[str, str | int | float]: ...
    @property
    def caveats(self) -> tuple[str, ...]: ...

    def __call__(self, images: Tensor) -> Features:
        """Compute the features of `images`: uint8 (n, C, H, W), any device, any n."""
        ...


@dataclass(frozen=True, eq=False)
class NetworkExtractor:
    """An `Extractor` around a network that maps uint8 (n, C, H, W) to features, (features,) or (features, logits).

    The network is frozen and put in eval mode. It runs in full float32, regardless of the caller's autocast and TF32
    settings, and on exactly `batch_size` images at a time, the last batch padded with black ones: for another batch
    size libraries may choose another algorithm, which rounds differently.
    """

    network: nn.Module
    name: str
    digest: str
    resize: str
    device: torch.device
    official: bool = False
    labelled: bool = False
    has_logits: bool = True
    batch_size: int = 64
    arithmetic: str = "plain"
    details: Mapping[str, str | int | float] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False).to(self.device)

    def __call__(self, images: Tensor) -> Features:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(f"images must be uint8 (n, C, H, W), not {images.dtype} {tuple(images.shape)}")
        parts = []
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), whole_float32():
            for batch in images.split(self.batch_size):
                parts.append([seen[: len(batch)].float().cpu() for seen in self._extract(batch.to(self.device))])
        return Features(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _extract(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        if missing := self.batch_size - len(batch):
            batch = torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])])
        seen = self.network(batch)
        features, *logits = seen if isinstance(seen, tuple) else (seen,)
        return features, logits[0] if logits else features.new_empty(len(features), 0)


class Colour(nn.Module):
    """Repeats greyscale images to the three channels that the network needs, before the network resizes them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)


def check_channels(name: str, data: ImageSet | None) -> None:
    if data is not None and data.images.shape[1] not in (1, 3):
        raise UserError(f"{name} needs 1 or 3 channels; {data.name} has {data.images.shape[1]}")
