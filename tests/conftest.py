"""What many tests share: the real configs, composed, with every path in a temporary folder."""

import copy
import functools
import gc
import os
import sqlite3
import sys
from contextlib import closing

# Tests run side by side, on as many processes as there are cores; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from project import ROOT

# torch, Hydra and Gantry are imported where they are used: the process that starts the workers needs none of them.

ESTIMATES = {}
USUAL = ["tracking=none", "trainer.accelerator=cpu", "paths.root=.", "paths.cache=."]  # overrides win over them
MLFLOWS = ("TRACKING_URI", "REGISTRY_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID", "TRACKING_USERNAME")
for name in (*MLFLOWS, "TRACKING_PASSWORD", "TRACKING_TOKEN"):
    os.environ.pop(f"MLFLOW_{name}", None)  # the developer's own, which would send the tests' runs to their store


def pytest_configure(config):
    """Hide the GPUs from a run without the tests marked `gpu`, so that it is the same on every machine."""
    from gantry.core.processes.devices import GPUS

    if "not gpu" in config.option.markexpr:
        os.environ[GPUS] = ""


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep Python's garbage collector from scanning the million objects that the imports of the tests make.

    After them it scans a tenth as often as by default: what tests import later is as many objects again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)
        gc.enable()


@pytest.fixture(autouse=True)
def commands_on_the_cpu(request, monkeypatch):
    """Hide the GPUs from the processes that a test starts, unless it is marked `gpu`.

    Many of these tests start several jobs or ranks, for which one GPU is too few, or compare two runs bit by bit.
    """
    from gantry.core.processes.devices import GPUS

    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv(GPUS, "")


def pytest_runtest_setup(item):
    """Skip what is marked `gpu` where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each worker a contiguous share of the tests, of which idle workers take some in the end.

    xdist's own default deals neighbouring tests to all workers, and each then makes a module's fixtures anew.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


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
    from omegaconf import OmegaConf

    from gantry.training import memory

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
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """The path of an MLflow database without a run, once a test has made one."""
    return tmp_path_factory.mktemp("empty") / "mlflow.db"


@pytest.fixture(autouse=True)
def tables_made_once(monkeypatch, empty_store):
    """Copy the tables of a new SQLite store: MLflow's fifty migrations take a second. Processes make their own."""
    if (stores := sys.modules.get("mlflow.store.db.utils")) is None:
        return
    from sqlalchemy import inspect

    make = stores._initialize_tables

    def copied(engine):
        if engine.dialect.name != "sqlite" or not (path := engine.url.database) or inspect(engine).get_table_names():
            make(engine)
        elif empty_store.exists():
            with closing(sqlite3.connect(empty_store)) as ready, closing(sqlite3.connect(path, timeout=60)) as new:
                ready.backup(new)
        else:
            make(engine)
            with closing(sqlite3.connect(path)) as made, closing(sqlite3.connect(empty_store)) as ready:
                made.backup(ready)

    monkeypatch.setattr(stores, "_initialize_tables", copied)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache of classifiers and statistics for all tests, those of other workers too."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tmp_path_factory.mktemp("cache")
    folder = tmp_path_factory.getbasetemp().parent / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@functools.cache
def composed(*overrides):
    """conf/train.yaml with overrides, on the CPU, composed once for all tests that ask for the same."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [*USUAL, *overrides])


@pytest.fixture
def config(tmp_path, cache):
    """Compose conf/train.yaml with overrides, untracked and on the CPU."""
    from omegaconf import OmegaConf

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
    from hydra.core.global_hydra import GlobalHydra

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
