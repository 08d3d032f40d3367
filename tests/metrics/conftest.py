from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_helpers import Means, image_set

from gantry.data.images import ImageSet, resize
from gantry.metrics.classifier import classifier
from gantry.metrics.extractors import NetworkExtractor, inception


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with seeded random weights that torch-fidelity's Inception loads."""
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
    state["fc.weight"] *= 100  # else all logits are alike and the Inception Score is 1 to five digits
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def random_inception(random_weights: Path) -> NetworkExtractor:
    return inception(weights=str(random_weights))


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = (loaded.images * 255 / 16).round().astype(np.uint8)[:, None]
    return image_set(resize(images, 16), loaded.target.astype(np.int64), "digits")


@pytest.fixture(scope="session")
def classifier_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def digits_classifier(digits: ImageSet, classifier_cache: Path) -> NetworkExtractor:
    return classifier(data=digits, cache=classifier_cache)


@pytest.fixture
def tiny() -> NetworkExtractor:
    return NetworkExtractor(Means(), "tiny", "0" * 64, resize="none", device=torch.device("cpu"), labelled=True)
