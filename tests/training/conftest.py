"""Fixtures that the tests here share."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from origins import SMALL, written
from small import NOISE

from gantry.core.redaction import as_yaml
from gantry.runs import checkpoint_files
from gantry.runs.folder import RUN_FILE, SUMMARY_FILE
from gantry.runs.generator_files import save_generator
from gantry.training.model import build_model


@pytest.fixture
def build(config, cache):
    """A config and its GAN for images of its size."""

    def build(*overrides, channels=1):
        cfg = config(*SMALL, *overrides)
        images = np.zeros((50, channels, cfg.data.image_size, cfg.data.image_size), np.uint8)
        gan, network = build_model(cfg, replace(NOISE, images=images))
        return SimpleNamespace(cfg=cfg, gan=gan, network=network)

    return build


@pytest.fixture
def trained(build, tmp_path, monkeypatch):
    """A run's folder in `outputs`, as one that has trained leaves it, with the best step before the last."""
    monkeypatch.chdir(tmp_path)

    def trained(name="12-00-00_dcgan_digits", run_id="0123abc", built=None):
        made = built or build()
        folder = tmp_path / "outputs" / "2026-01-01" / name
        checkpoint_files.mark_best(folder, checkpoint_files.write(folder, 7, written(made.gan)))
        checkpoint_files.write(folder, 9, written(made.gan, 9))
        save_generator(folder / "generator" / "best", made.gan.averaged.module, made.network, 7)
        (folder / "config.yaml").write_text(as_yaml(made.cfg, resolve=True))
        (folder / RUN_FILE).write_text(json.dumps({"run_id": run_id, "run_name": f"run {run_id}"}))
        summary = {"primary": "fid", "protocol": {}, "best": {"fid": 1.0}}
        (folder / SUMMARY_FILE).write_text(json.dumps(summary))
        return folder

    return trained
