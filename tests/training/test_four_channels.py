"""Every variant trains on images with alpha, and a run of them keeps, shows and measures it as it says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from small import NOISE, bare_trainer, vector

from gantry.core.randomness import draws
from gantry.data.alpha import premultiply
from gantry.data.batches import Batches
from gantry.training import run as training
from gantry.training.callbacks.film import frame
from gantry.training.model import build_model

VARIANTS = ("vanilla", "dcgan", "lsgan", "wgan", "wgan_gp", "sngan", "r3gan")
PIXELS = draws(0, 0, "test images with alpha").integers(0, 256, (60, 4, 8, 8), dtype="uint8")
NARROW = ["model.generator.width=4", "model.discriminator.width=4"]


@pytest.mark.parametrize("network", ["mlp", "dcgan", "resnet"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_trains_every_network_on_images_with_alpha(config, variant, network):
    narrow = [] if network == "mlp" else NARROW
    cfg = config(f"model={variant}", f"model/network={network}", "batch_size=8", *narrow)
    data = replace(NOISE, images=premultiply(PIXELS))
    gan, exported = build_model(cfg, data)
    before = vector(gan.generator).clone()
    bare_trainer(2).fit(gan, Batches(data, 8, gan.n_critic, 0))
    images = gan.averaged(torch.zeros(3, cfg.model.z_dim))
    assert images.shape == (3, 4, 8, 8)
    assert exported["image_shape"] == [4, 8, 8]
    assert not torch.equal(vector(gan.generator), before)


def test_a_run_on_a_folder_of_transparent_files(config, tmp_path):
    for place, image in enumerate(PIXELS):
        target = tmp_path / "sprites" / ("one" if place % 2 else "two") / f"{place}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)), "RGBA").save(target)
    own = ["data=image_folder", f"data.folder={tmp_path / 'sprites'}", "data.channels=4", "data.image_size=8"]
    small = ["experiment=smoke", "model=dcgan", "model/network=mlp", "steps=2", "metrics.every=2", "batch_size=8"]
    (tmp_path / "run").mkdir()
    training.train(
        config(*small, *own, "metrics=classifier", "tracking=none"),
        tmp_path / "run",
        {"variant": "dcgan", "dataset": "image_folder"},
    )
    tags = json.loads((tmp_path / "run/tags.json").read_text())
    assert (tags["metrics.ground"], tags["data.alpha"]) == ("white", "premultiplied")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["data"]["shape"] == [4, 8, 8]
    assert summary["protocol"]["ground"] == "white"
    for grid in ("real/0000000.png", "samples/0000002.png", "film/0000002.png"):
        with Image.open(tmp_path / "run" / grid) as opened:
            assert opened.mode == "RGB"  # on squares
    with safe_open(tmp_path / "run/generator/best/generator.safetensors", framework="pt") as file:
        assert "multiplied by alpha" in file.metadata()["channels"]


@pytest.mark.parametrize("size", [16, 208])
def test_a_frame_of_the_film_shows_transparency_on_squares(size):
    """Also where images are first reduced, which blends colours as they are seen."""
    images = torch.zeros(2, 4, size, size, dtype=torch.uint8)
    images[1] = 255
    made = frame(images)
    side = min(size, 104)
    assert made.shape[2] == 3
    assert set(made[1 : 1 + side, 1 : 1 + side].ravel().tolist()) == {204, 255}
    assert (made[1 : 1 + side, 2 + side : 2 + 2 * side] == 255).all()
