"""Images, a generator and a network for the tests of the metrics."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from gantry.data.images import ImageSet


def image_set(images: np.ndarray, labels: np.ndarray | None = None, name: str = "made") -> ImageSet:
    digest = hashlib.sha256(images.tobytes() + (b"" if labels is None else labels.tobytes())).hexdigest()
    classes = None if labels is None else tuple(str(c) for c in range(int(labels.max()) + 1))
    return ImageSet(name, images, labels, classes, split="all", source="test", digest=digest, flip=False)


def random_images(count: int, channels: int = 3, size: int = 32, seed: int = 0) -> np.ndarray:
    """Smooth random images: the sum of coarse and fine noise, so that features differ between images."""
    random = np.random.default_rng(seed)
    coarse = random.normal(128, 50, (count, channels, 4, 4)).repeat(size // 4, 2).repeat(size // 4, 3)
    return (coarse + random.normal(0, 20, (count, channels, size, size))).round().clip(0, 255).astype(np.uint8)


def served(images: np.ndarray) -> Callable[[int, int], torch.Tensor]:
    """A generator, as the evaluator calls it, that returns the given images."""
    return lambda start, count: torch.from_numpy(images[start : start + count])


class Means(nn.Module):
    """Features: the mean of each quarter of the image. Logits: the same, ten times as large."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1) / 255
        return features, 10 * features
