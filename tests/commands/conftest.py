"""Fixtures that the tests here share."""

import pytest
from omegaconf import OmegaConf

from gantry.commands import sample
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
