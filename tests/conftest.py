"""What many tests share: the real configs, composed, with every path in a temporary folder."""

import os

# Tests run side by side, on as many processes as there are cores; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hydra import compose, initialize_config_dir
from project import ROOT


@pytest.fixture(autouse=True)
def seeded():
    """The same initial weights in every test run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache of classifiers and statistics for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(tmp_path, cache):
    """Compose conf/train.yaml with overrides, untracked."""

    def composed(*overrides):
        paths = [f"paths.root={tmp_path}", f"paths.cache={cache}"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("train", ["tracking=none", *paths, *overrides])

    return composed
