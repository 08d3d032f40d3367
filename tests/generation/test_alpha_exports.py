"""What leaves Gantry with alpha: straight in pictures, premultiplied from the network, and every format says so."""

import sys

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from registry_helpers import TRUSTED, fid, pixels
from sharing_helpers import Z_DIM, exported, images_of

from gantry.data.alpha import SAID, premultiply, straighten
from gantry.data.images import quantise
from gantry.generation.export import standalone
from gantry.generation.export.export import export_generator
from gantry.generation.export.programs import EXTRA, write_torch_export
from gantry.generation.pictures import projected
from gantry.generation.registry.registry import register
from gantry.generation.ui.server import Shown, picture
from gantry.generation.write_images import Order
from gantry.models.networks import dcgan
from gantry.models.sampling import Tiles
from gantry.runs.generators import ExportedFiles
from gantry.runs.tracking.store import prepare_store

EVERY = np.stack([np.meshgrid(np.arange(256), np.arange(256))[which] for which in (0, 0, 0, 1)]).astype(np.uint8)


@pytest.fixture
def network(tmp_path):
    """A generator of images with alpha, exported to the folder `generator`."""
    return exported(
        tmp_path / "generator", dcgan.Generator, z_dim=Z_DIM, image_shape=[4, 16, 16], width=4, norm="batch"
    )


def test_every_format_and_the_card_say_what_the_channels_are(network, tmp_path):
    export_generator(tmp_path / "generator", tmp_path / "out", trusted=TRUSTED)
    card = (tmp_path / "out/README.md").read_text()
    assert f"16 x 16 pixels, 4 channels ({SAID})" in card
    assert "alpha -1 transparent to 1 opaque\nsave(images" in card
    extra = {EXTRA: ""}
    torch.export.load(tmp_path / "out/generator.pt2", extra_files=extra)
    assert extra[EXTRA] == SAID
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "out/generator.onnx").metadata_props}
    assert properties[EXTRA] == SAID
    with Image.open(tmp_path / "out/samples.png") as opened:
        assert opened.mode == "RGB"  # on squares


def test_formats_of_other_generators_say_what_they_did(tmp_path):
    network = exported(tmp_path / "x", dcgan.Generator, z_dim=Z_DIM, image_shape=[3, 16, 16], width=4, norm="batch")
    write_torch_export(network, Z_DIM, tmp_path / "g.pt2")
    extra = {EXTRA: ""}
    torch.export.load(tmp_path / "g.pt2", extra_files=extra)
    assert not extra[EXTRA]


def test_the_loader_without_gantry_writes_straight_alpha(network, tmp_path):
    made = premultiply(EVERY[None])
    assert np.array_equal(standalone.straighten(torch.from_numpy(made)).numpy(), straighten(made))
    grey = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    assert standalone.straighten(grey) is grey
    images = images_of(network)
    standalone.save(images, tmp_path / "made.png", columns=len(images))
    expected = straighten(quantise(images).numpy())
    with Image.open(tmp_path / "made.png") as opened:
        assert opened.mode == "RGBA"
        assert np.array_equal(np.asarray(opened)[:, :16], expected[0].transpose(1, 2, 0))


def test_the_page_shows_transparency_on_squares(network):
    shown = Shown(network, Z_DIM, np.zeros((2, Z_DIM), np.float32))
    assert picture(shown, 0, 4, None, (0.0, 0.0)).shape[2] == 3


def test_a_transparent_picture_is_projected_and_its_damage_is_grey_and_opaque(network, tmp_path):
    given = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    given.paste((0, 255, 0, 255), (0, 0, 16, 8))
    given.save(tmp_path / "given.png")
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (8, 0, 16, 16))
    mask.save(tmp_path / "mask.png")
    order = Order(ExportedFiles(tmp_path / "generator", TRUSTED), 1, 0, None, 512, "cpu", 1)
    said = projected(order, tmp_path / "given.png", tmp_path / "mask.png", tmp_path / "out.png", tmp_path / "cache")
    # The mean of the known half is half opaque and half green: 127.5 from what is given, in those two channels of four.
    assert f"the mean of the known pixels: {127.5 / 2**0.5:.1f}" in said
    with Image.open(tmp_path / "out.png") as opened:
        assert opened.mode == "RGB"
        shown = np.asarray(opened)[3 * 1 :: 3][:16, ::3].copy()  # a pixel of each of the enlarged grid's
    side = 17  # an image and its border
    assert (shown[1:7, 1:16] == [0, 255, 0]).all()
    assert set(shown[9:15, 1:16].ravel().tolist()) == {204, 255}
    assert (shown[1:15, side + 10 : side + 16] == 128).all()


def test_the_registered_model_serves_straight_alpha_and_its_version_says_what_it_makes(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import mlflow

    files = ExportedFiles(tmp_path / "generator", TRUSTED)
    client, experiment = prepare_store(tmp_path / "store", "gantry")
    register(client, "sprites", files, experiment, None, fid(2.0))
    assert client.get_model_version("sprites", "1").tags["alpha"] == "premultiplied"
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        (answer,) = mlflow.pyfunc.load_model("models:/sprites/1").predict([{"seed": 0, "n": 3}])
    finally:
        mlflow.set_tracking_uri(None)
    expected = straighten(Tiles(files.load(), Z_DIM, 0).first(3).numpy()).transpose(0, 2, 3, 1)
    assert np.array_equal(np.stack([pixels(text) for text in answer.images]), expected)
