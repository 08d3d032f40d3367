"""Fixtures that the tests here share."""

import sys

import pytest
from omegaconf import OmegaConf

from gantry.commands import sample, train
from gantry.models.networks.dcgan import Generator
from gantry.runs.generator_files import save_generator


@pytest.fixture
def run(tmp_path, cache, monkeypatch):
    """The folder of a run with an untrained generator; the current folder is the one above its outputs."""
    folder = tmp_path / "outputs" / "2026-01-01" / "00-00-00_dcgan_digits"
    network = Generator(6, (1, 8, 8), width=4)
    for weight in network.parameters():
        weight.data *= 5  # a fresh one makes all but grey images
    for which in ("best", "last"):
        save_generator(
            folder / "generator" / which,
            network,
            {"_target_": "gantry.models.networks.dcgan.Generator", "z_dim": 6, "image_shape": [1, 8, 8], "width": 4},
            7,
        )
    OmegaConf.save({"data": {"_target_": "gantry.data.sources.digits", "image_size": 8}}, folder / "config.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANTRY_CACHE", str(cache))
    return folder


@pytest.fixture
def call(run, typed):
    """Type `python sample.py ...`; gives the exit code and what stood on the terminal."""

    def called(*arguments):
        code, out, errors = typed(sample.main, *arguments)
        return code, out + errors

    return called


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One tracking store for the module: its tables take seconds to make."""
    return tmp_path_factory.mktemp("mlruns")


@pytest.fixture
def arguments(tmp_path, cache, store):
    """The overrides that keep a run's files in temporary folders."""
    return [f"paths.root={tmp_path}", f"paths.cache={cache}", f"tracking.uri={store}", f"hydra.run.dir={tmp_path}/run"]


@pytest.fixture
def cli(monkeypatch, tmp_path, arguments):
    """Run train.py's main in this process; returns the exit code."""

    def run(*overrides):
        monkeypatch.chdir(tmp_path)
        tracked = "tracking=none" not in overrides
        mine = [argument for argument in arguments if tracked or not argument.startswith("tracking.")]
        monkeypatch.setattr(sys, "argv", ["train.py", *mine, *overrides])
        try:
            train.main()
        except SystemExit as error:
            return error.code
        return 0

    return run
