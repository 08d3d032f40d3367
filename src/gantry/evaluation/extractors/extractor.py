"""Defines extractors, which map images to the features and logits that metrics use."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gantry.core.captured import Captured
from gantry.core.determinism import Products, float32_products
from gantry.core.errors import UserError
from gantry.data.images import ImageSet

logger = logging.getLogger(__name__)

TF32 = "tf32"  # in an extractor's arithmetic
AT_ONCE = 8  # batches, between which nothing waits for a GPU
ROUNDING = 1e-5  # relative, between a network and its graph


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
        arithmetic: "plain" as published; "folded" with the same value up to rounding, computed faster; with " tf32"
            behind it where products are in TF32.
        device: where it computes.
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
    def device(self) -> torch.device: ...
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

    The network is frozen and put in eval mode. It runs in full float32, or with TF32's products where `products` says
    so, regardless of the caller's autocast and TF32 settings, and on exactly `batch_size` images at a time, the last
    batch padded with black ones: for another batch size libraries may choose another algorithm, which rounds
    differently. With `graph` a GPU replays it as a CUDA graph; Python code in it then runs for the first batch alone.
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
    products: Products = "ieee"
    graph: bool = False
    details: Mapping[str, str | int | float] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    _captured: dict[tuple[int, ...], Captured | None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False).to(self.device)

    def __call__(self, images: Tensor) -> Features:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(f"images must be uint8 (n, C, H, W), not {images.dtype} {tuple(images.shape)}")
        parts = []
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), float32_products(self.products):
            for group in images.split(AT_ONCE * self.batch_size):
                seen = [self._extract(batch) for batch in group.to(self.device).split(self.batch_size)]
                parts += [[torch.cat(part).cpu() for part in zip(*seen, strict=True)]]
        return Features(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _extract(self, batch: Tensor) -> list[Tensor]:
        count = len(batch)
        if missing := self.batch_size - count:
            batch = torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])])
        captured = self._graph_of(batch) if self.graph else None
        if captured is None:
            return [seen[:count] for seen in self._outputs(batch)]
        return [seen[:count].clone() for seen in captured(batch)]

    def _outputs(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.network(batch)
        features, *logits = seen if isinstance(seen, tuple) else (seen,)
        return features.float(), logits[0].float() if logits else features.new_empty(len(features), 0).float()

    def _graph_of(self, batch: Tensor) -> Captured | None:
        """Return the network captured for batches of this shape; None where it cannot be, or gives other values."""
        key = tuple(batch.shape)
        if key not in self._captured:
            self._captured[key] = self._capture(batch)
        return self._captured[key]

    def _capture(self, batch: Tensor) -> Captured | None:
        try:
            captured = Captured(self._outputs, batch)
            pairs = zip(captured(batch), self._outputs(batch), strict=True)
            if all(torch.allclose(mine, eager, ROUNDING, ROUNDING, equal_nan=True) for mine, eager in pairs):
                return captured
            reason = "the graph's values are others"
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
        logger.warning("%s runs without a CUDA graph: %s", self.name, reason)
        return None


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
