"""What many tests share: the real configs, composed, with every path in a temporary folder."""

import copy
import functools
import os
import sys

# Tests run side by side, on as many processes as there are cores; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from project import ROOT

from gantry.core.processes.devices import GPUS
from gantry.training import memory

ESTIMATES = {}
USUAL = ["tracking=none", "trainer.accelerator=cpu", "paths.root=.", "paths.cache=."]  # overrides win over them
MLFLOWS = ("TRACKING_URI", "REGISTRY_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID", "TRACKING_USERNAME")
for name in (*MLFLOWS, "TRACKING_PASSWORD", "TRACKING_TOKEN"):
    os.environ.pop(f"MLFLOW_{name}", None)  # the developer's own, which would send the tests' runs to their store


def pytest_configure(config):
    """Hide the GPUs from a run without the tests marked `gpu`, so that it is the same on every machine."""
    if "not gpu" in config.option.markexpr:
        os.environ[GPUS] = ""


@pytest.fixture(autouse=True)
def commands_on_the_cpu(request, monkeypatch):
    """Hide the GPUs from the processes that a test starts, unless it is marked `gpu`.

    Many of these tests start several jobs or ranks, for which one GPU is too few, or compare two runs bit by bit.
    """
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv(GPUS, "")


def pytest_runtest_setup(item):
    """Skip what is marked `gpu` where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def no_store_of_another_test():
    """Forget the store that a command of a test has put into MLflow's variables."""
    yield
    for name in (*(f"MLFLOW_{name}" for name in MLFLOWS), "GANTRY_STORE_KEPT"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def no_store_in_the_checkout():
    """Fail a test after which MLflow, which was given no store, has made its own in the checkout."""
    yield
    stray = ROOT / "mlflow.db"
    if stray.exists():
        stray.unlink()
        pytest.fail(f"this test made {stray.name} in the checkout: MLflow was asked without naming a store")


@pytest.fixture(autouse=True)
def one_estimate(monkeypatch):
    """Compute the memory of a step once for all runs of the same config."""
    need = memory.need

    def of_the_same(cfg, data, world_size=1):
        asked = OmegaConf.to_container(cfg)
        asked.pop("paths")
        key = repr(asked), data.shape, world_size
        if key not in ESTIMATES:
            ESTIMATES[key] = need(cfg, data, world_size)
        return ESTIMATES[key]

    monkeypatch.setattr(memory, "need", of_the_same)


@pytest.fixture(autouse=True)
def seeded():
    """The same initial weights in every test run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache of classifiers and statistics for all tests."""
    return tmp_path_factory.mktemp("cache")


@functools.cache
def composed(*overrides):
    """conf/train.yaml with overrides, on the CPU, composed once for all tests that ask for the same."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [*USUAL, *overrides])


@pytest.fixture
def config(tmp_path, cache):
    """Compose conf/train.yaml with overrides, untracked and on the CPU."""

    def of_this_test(*overrides):
        cfg = copy.deepcopy(composed(*overrides))
        for name, place in {"root": tmp_path, "cache": cache}.items():
            if not any(override.startswith(f"paths.{name}=") for override in overrides):
                OmegaConf.update(cfg, f"paths.{name}", str(place))
        return cfg

    return of_this_test


@pytest.fixture
def typed(capsys, monkeypatch):
    """Run an entry's `main` with arguments as if typed, in this process; its exit code and what it printed.

    Seconds quicker than a process of its own, which has to import everything.
    """

    def called(main, *arguments):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["typed.py", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return called
