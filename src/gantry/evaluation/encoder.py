"""The encoder of a generator that has one, as a function of uint8 images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from gantry.data.images import to_float
from gantry.models.inference import Inference
from gantry.models.sampling import at_a_time

BATCH = 512  # images at a time


@dataclass(frozen=True)
class Encoder:
    """Computes codes of images and reconstructions in eval mode; the modules' modes are restored.

    Args:
        network: a generator that is a `gantry.models.inference.Inference`, on its device.
    """

    network: nn.Module

    @classmethod
    def of(cls, network: nn.Module) -> Encoder | None:
        """Return the encoder of a generator, or of the average of one; None where it has none."""
        inner: nn.Module = getattr(network, "module", network)
        return cls(cast(nn.Module, inner)) if isinstance(inner, Inference) else None

    def codes(self, images: np.ndarray) -> Tensor:
        """Return codes, float32 (n, z_dim) on the CPU, of uint8 images (n, C, H, W)."""
        return self._over(images, self._inference.encode)

    def hidden(self, images: np.ndarray) -> Tensor:
        """Return the layer before the code, float32 (n, F) on the CPU, of uint8 images (n, C, H, W)."""
        return self._over(images, self._inference.hidden)

    def reconstructed(self, images: np.ndarray) -> Tensor:
        """Return G(E(x)), float32 (n, C, H, W) in [-1, 1] on the CPU, of uint8 images (n, C, H, W)."""
        return self._over(images, lambda part: self._inference.decode(self._inference.encode(part)))

    @property
    def _inference(self) -> Inference:
        return cast(Inference, self.network)

    def _over(self, images: np.ndarray, function: Callable[[Tensor], Tensor]) -> Tensor:
        device = next(self.network.parameters()).device
        training = [module for module in self.network.modules() if module.training]
        self.network.eval()
        size = at_a_time(images[0].size, BATCH)
        parts = []
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for start in range(0, len(images), size):
                part = torch.from_numpy(np.array(images[start : start + size])).to(device)
                parts.append(function(to_float(part)).float().cpu())
        for module in training:
            module.training = True
        return torch.cat(parts)
