from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from measured_plans import plan_of
from metrics_helpers import Means, image_set, random_state

from gantry.data.images import ImageSet, resize
from gantry.evaluation.extractors.classifier import classifier
from gantry.evaluation.extractors.networks import NetworkExtractor, inception
from gantry.models.networks.dcgan import Generator
from gantry.runs.generator_files import save_generator


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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with two exported generators, which differ."""
    folder = tmp_path_factory.mktemp("run")
    for step, which in ((20, "best"), (30, "last")):
        with torch.random.fork_rng():
            torch.manual_seed(step)
            network = Generator(z_dim=6, image_shape=(1, 8, 8), width=8, norm="none")
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.mul_(10)  # so that images differ
        config = {"_target_": "gantry.models.networks.dcgan.Generator", "width": 8, "norm": "none"}
        save_generator(folder / "generator" / which, network, config | {"z_dim": 6, "image_shape": [1, 8, 8]}, step)
    return folder


@pytest.fixture
def plan(run, tmp_path):
    extractor = {
        "_target_": "gantry.evaluation.extractors.networks.own",
        "network": {"_target_": "measured_plans.Looks"},
        "name": "looks",
    }
    return plan_of(run, tmp_path, extractor=extractor)
