"""A run of a generator with codes shows them at its end and measures them on the way; others do neither."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from project import widths

from gantry.data.grid import GRID, enlarged_grid
from gantry.models.code_images import code_images
from gantry.models.sampling import normal
from gantry.runs.generator_files import load_generator
from gantry.training import run as training

SHORT = ["experiment=smoke", "steps=3", "metrics.every=2", "batch_size=8"]


@pytest.fixture
def trained(config, tmp_path):
    def trained(variant):
        cfg = config(*SHORT, f"model={variant}", *widths(variant))
        (tmp_path / variant).mkdir()
        training.train(cfg, tmp_path / variant, {"variant": variant, "dataset": "digits"}, None)
        return cfg, tmp_path / variant

    return trained


def test_the_picture_of_the_last_step_shows_the_last_generator(trained):
    cfg, folder = trained("infogan")
    (path,) = (folder / "codes").iterdir()
    assert path.name == "0000003.png"
    z = torch.from_numpy(normal(cfg.seed, "grid noise", (GRID, cfg.model.z_dim)))
    expected = enlarged_grid(code_images(load_generator(folder / "generator" / "last"), z))
    picture = Image.open(path)
    assert np.array_equal(np.asarray(picture.convert("RGB")), expected)
    assert picture.text["rows"] == "18"  # 10 values, and 4 of each of two numbers
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["code_agreement_classifier"] for row in rows if "code_agreement_classifier" in row}
    assert list(measured) == [0, 2, 3]
    assert all(0 < value <= 1 for value in measured.values())


def test_a_generator_without_codes_has_neither(trained):
    _, folder = trained("dcgan")
    assert not (folder / "codes").exists()
    assert "code_agreement" not in (folder / "metrics.jsonl").read_text()
