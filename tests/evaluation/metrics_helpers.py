"""Images, a generator and a network for the tests of the metrics."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
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


def random_state() -> dict[str, torch.Tensor]:
    """A state dict of torch-fidelity's Inception with seeded random weights, batch norm's among them."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: {})
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    random = torch.Generator().manual_seed(0)
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    for key, value in state.items():
        if key.endswith("conv.weight") or key == "fc.weight":
            state[key] = torch.randn(value.shape, generator=random) * (2 / value[0].numel()) ** 0.5
        elif key.endswith(("bn.weight", "running_var")):
            state[key] = 0.75 + torch.rand(value.shape, generator=random) / 2
        elif key.endswith(("bn.bias", "running_mean")):  # small, or they drown what tells the images apart
            state[key] = torch.randn(value.shape, generator=random) / 1000
    state["fc.weight"] *= 10  # else all logits are alike and the Inception Score is 1 to five digits
    return state
