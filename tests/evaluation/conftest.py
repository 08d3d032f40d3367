from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics_helpers import Means, image_set, random_state

from gantry.data.images import ImageSet, resize
from gantry.evaluation.extractors.classifier import classifier
from gantry.evaluation.extractors.networks import NetworkExtractor, inception


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with seeded random weights that torch-fidelity's Inception loads."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(random_state(), path)
    return path


@pytest.fixture(scope="session")
def random_inception(random_weights: Path) -> NetworkExtractor:
    return replace(inception(weights=str(random_weights)), batch_size=2)  # a batch is always filled up


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
