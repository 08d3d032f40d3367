"""Pixels: the float range, its exact inverse, resizing, and every kind of image file people keep."""

import numpy as np
import pytest
import torch
from PIL import Image

from gantry.data.images import ImageSet, decode, digest_of, quantise, resize, to_float


def test_quantise_inverts_to_float_on_every_level():
    levels = torch.arange(256, dtype=torch.uint8)
    floats = to_float(levels)
    assert floats.dtype == torch.float32
    assert (floats[0].item(), floats[255].item()) == (-1.0, 1.0)
    assert torch.equal(quantise(floats), levels)


def test_quantise_rounds_to_the_nearest_level_and_clamps():
    step = 1 / 127.5
    given = torch.tensor([-1.3, -1 + 0.4 * step, -1 + 0.6 * step, 1 - 0.4 * step, 1.2])
    assert quantise(given).tolist() == [0, 0, 1, 255, 255]


def test_quantise_computes_in_float32_for_half_precision_generators():
    for dtype in (torch.bfloat16, torch.float16):
        values = to_float(torch.arange(256, dtype=torch.uint8)).to(dtype)
        assert torch.equal(quantise(values), quantise(values.float()))


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_averages_what_it_removes(channels):
    """A one-pixel chequerboard is flat grey at a quarter of the size; aliased, it would be black or white."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    images = np.broadcast_to(board.astype(np.uint8), (2, channels, 64, 64))
    small = resize(images, 16)
    assert small.shape == (2, channels, 16, 16)
    assert np.abs(small.astype(int) - 127.5).max() <= 4


def test_resize_leaves_the_wanted_size_untouched_and_keeps_channels_apart():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    assert resize(images, 8) is images
    flat = np.stack([np.full((8, 8), level, np.uint8) for level in (10, 100, 200)])[None]
    assert np.array_equal(resize(flat, 20)[0, :, 0, 0], [10, 100, 200])


def test_digest_tells_shape_pixels_and_labels_apart():
    labels = np.array([0, 1])
    base = digest_of((2, 1, 4, 4), b"pixels", labels)
    assert base == digest_of((2, 1, 4, 4), b"pixels", labels.copy())
    others = {
        digest_of((2, 1, 2, 8), b"pixels", labels),
        digest_of((2, 1, 4, 4), b"others", labels),
        digest_of((2, 1, 4, 4), b"pixels", labels[::-1]),
        digest_of((2, 1, 4, 4), b"pixels", None),
    }
    assert len(others | {base}) == 5


def test_image_set_reports_its_shape_and_length():
    data = ImageSet("x", np.zeros((5, 3, 8, 8), np.uint8), None, None, "all", "here", "0", flip=False)
    assert len(data) == 5
    assert data.shape == (3, 8, 8)
    assert data.skipped == 0


GREY = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "pgm", "gif"])
def test_greyscale_files_of_lossless_formats_keep_their_pixels(tmp_path, ending):
    Image.fromarray(GREY).save(tmp_path / f"x.{ending}")
    assert np.array_equal(decode(tmp_path / f"x.{ending}", 16, 1)[0], GREY)
    assert np.array_equal(decode(tmp_path / f"x.{ending}", 16, 3), np.stack([GREY] * 3))


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_greyscale_is_scaled_not_clipped(tmp_path, ending):
    deep = GREY.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / f"x.{ending}")
    assert np.array_equal(decode(tmp_path / f"x.{ending}", 16, 1)[0], GREY)


def test_floating_point_pixels_are_refused_because_their_range_is_unknown(tmp_path):
    Image.fromarray(GREY.astype(np.float32) / 255).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="floating-point"):
        decode(tmp_path / "x.tif", 16, 1)


def test_transparency_shows_white(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:] = (200, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba[..., [0, 3]]).save(tmp_path / "la.png")
    palette = Image.fromarray(np.repeat(np.repeat(np.array([[0, 1]], np.uint8), 8, 0), 4, 1), mode="P")
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.save(tmp_path / "palette.gif", transparency=0)
    for name, right in (("rgba.png", [200, 0, 0]), ("la.png", [200] * 3), ("palette.gif", [200, 0, 0])):
        pixels = decode(tmp_path / name, 8, 3)
        assert pixels[:, 0, 0].tolist() == [255, 255, 255], name
        assert pixels[:, 0, 7].tolist() == right, name


def test_exif_orientation_is_applied_before_the_crop(tmp_path):
    """Stored lying down, 32 by 16, its left half white; orientation 6 turns it clockwise: white on top."""
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "x.jpg", exif=exif, quality=95)
    pixels = decode(tmp_path / "x.jpg", 16, 3).astype(int)
    assert pixels[:, :7].min() > 240
    assert pixels[:, 9:].max() < 15


def test_the_centre_square_is_kept(tmp_path):
    wide = np.full((10, 30, 3), 7, np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    for name in ("wide.png", "tall.png"):
        assert (decode(tmp_path / name, 5, 3) == 200).all()


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("L", (8, 8), level) for level in (50, 250)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (decode(tmp_path / "x.gif", 8, 1) == 50).all()


def test_cmyk_and_bilevel_become_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    Image.new("1", (8, 8), 1).save(tmp_path / "bits.png")
    assert decode(tmp_path / "cmyk.tif", 8, 3)[:, 0, 0].tolist() == [255, 0, 0]
    assert (decode(tmp_path / "bits.png", 8, 3) == 255).all()
