"""Transparency: multiplied into the colours, resized, laid on a ground, and the same in the files that come out."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gantry.core.errors import UserError
from gantry.data.alpha import on_checks, on_ground, premultiply, straighten
from gantry.data.describe import data_tags, describe, warnings_of
from gantry.data.grid import enlarged_grid
from gantry.data.image_folder import image_folder
from gantry.data.images import decode, resize
from gantry.data.sample_files import samples

LEVELS = np.stack([np.meshgrid(np.arange(256), np.arange(256))[which] for which in (0, 0, 0, 1)])
EVERY = LEVELS.astype(np.uint8)[None]  # each colour (columns) with each alpha (rows), straight, (1, 4, 256, 256)
RANDOM = np.random.default_rng(0).integers(0, 256, (6, 4, 12, 12), dtype=np.uint8)


def pixel(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 4, 1, 1)


def picture(image: np.ndarray) -> Image.Image:
    """An image (4, H, W) of straight alpha as Pillow has it."""
    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)), "RGBA")


def saved(folder, images=RANDOM, mode="RGBA"):
    folder.mkdir(parents=True, exist_ok=True)
    for place, image in enumerate(images):
        picture(image).convert(mode).save(folder / f"{place}.png")
    return folder


def load(folder, **options):
    options = {"image_size": 12, "channels": 4} | options
    return image_folder(folder=str(folder), cache=folder.parent / "cache", **options)


def test_known_colours_on_ground_and_on_checks():
    red = pixel(255, 0, 0, 51)  # a fifth of red
    assert premultiply(red).ravel().tolist() == [51, 0, 0, 51]
    assert on_ground(premultiply(red)).ravel().tolist() == [255, 204, 204]
    assert on_ground(premultiply(red), "black").ravel().tolist() == [51, 0, 0]
    assert on_ground(pixel(0, 0, 0, 0)).ravel().tolist() == [255, 255, 255]
    assert on_ground(pixel(10, 20, 30, 255)).ravel().tolist() == [10, 20, 30]
    clear, solid = torch.zeros(1, 4, 16, 16, dtype=torch.uint8), torch.full((1, 4, 16, 16), 255, dtype=torch.uint8)
    assert on_checks(clear)[0, 1, 0, :5].tolist() == [255, 255, 204, 204, 255]
    assert on_checks(clear)[0, 1, 2, :5].tolist() == [204, 204, 255, 255, 204]
    assert (on_checks(solid) == 255).all()
    fifth = torch.tensor([51, 0, 0, 51], dtype=torch.uint8).view(1, 4, 1, 1).expand(1, 4, 16, 16)
    assert on_checks(fifth)[0, :, 0, 2].tolist() == [51 + 163, 163, 163]  # 204 * 4 / 5 is 163.2


def test_every_colour_with_every_alpha_is_rounded_as_pillow_does():
    made = premultiply(EVERY)
    assert np.array_equal(made[0].transpose(1, 2, 0), np.asarray(picture(EVERY[0]).convert("RGBa")))
    white = Image.alpha_composite(Image.new("RGBA", (256, 256), "white"), picture(EVERY[0])).convert("RGB")
    assert np.array_equal(on_ground(made)[0].transpose(1, 2, 0), np.asarray(white))
    assert torch.equal(on_ground(torch.from_numpy(made)), torch.from_numpy(on_ground(made)))


def test_a_colour_above_its_alpha_counts_as_its_alpha():
    glowing = pixel(200, 10, 0, 100)
    assert on_ground(glowing).ravel().tolist() == [255, 165, 155]
    assert straighten(glowing).ravel().tolist() == [255, 26, 0, 100]
    assert straighten(pixel(200, 10, 0, 0)).ravel().tolist() == [0, 0, 0, 0]
    on_board = on_checks(torch.from_numpy(glowing))
    assert torch.equal(on_board, on_checks(torch.from_numpy(premultiply(straighten(glowing)))))


def test_straight_colours_come_back_as_exactly_as_eight_bits_allow():
    back, alpha = straighten(premultiply(EVERY)), EVERY[:, 3:].astype(float)
    error = np.abs(back.astype(float) - EVERY)
    assert (error <= 127.5 / np.maximum(alpha, 1) + 0.5)[:, :, 1:].all()  # where alpha is above 0
    assert not error[:, :, 255].any()
    assert not error[:, 3].any()
    assert np.array_equal(premultiply(back), premultiply(EVERY))


def test_what_lies_under_transparent_pixels_does_not_bleed_when_resized(tmp_path):
    """Opaque red beside transparent green: the edge between them is red, half transparent, and never green."""
    image = np.zeros((4, 16, 16), np.uint8)
    image[0, :, :7], image[3, :, :7], image[1, :, 7:] = 255, 255, 255
    picture(image).save(tmp_path / "a.png")
    small = decode(tmp_path / "a.png", 8, 4)
    assert not small[1].any()
    assert np.array_equal(small[0], small[3])  # pure red, as strong as its alpha
    assert np.abs(small[3, :, 3].astype(int) - 128).max() <= 8  # the pixel that both share
    assert (straighten(small[None])[0, 0][small[3] > 0] == 255).all()
    again = resize(premultiply(image[None]), 8)
    assert np.abs(again[0].astype(int) - small).max() <= 1
    assert (small[:3] <= small[3]).all()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (lambda: Image.new("RGB", (8, 8), (10, 20, 30)), [10, 20, 30, 255]),
        (lambda: Image.new("L", (8, 8), 40), [40, 40, 40, 255]),
        (lambda: Image.new("LA", (8, 8), (100, 51)), [20, 20, 20, 51]),
        (lambda: Image.new("1", (8, 8), 1), [255, 255, 255, 255]),
        (lambda: Image.new("I;16", (8, 8), 257 * 40), [40, 40, 40, 255]),
        (lambda: Image.new("RGBA", (8, 8), (100, 50, 0, 0)), [0, 0, 0, 0]),
    ],
)
def test_every_kind_of_file_has_four_channels(tmp_path, kind, expected):
    kind().save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 4, 4)[:, 0, 0].tolist() == expected


def test_a_palette_keeps_the_transparency_of_its_entries(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=bytes([255, 51]))
    assert decode(tmp_path / "a.png", 8, 4)[:, 0, 0].tolist() == [40, 20, 10, 51]


def test_a_folder_and_a_zip_are_read_alike_and_the_start_says_so(tmp_path):
    folder = saved(tmp_path / "sprites")
    data = load(folder)
    assert np.array_equal(data.images, premultiply(RANDOM))
    with zipfile.ZipFile(tmp_path / "sprites.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    assert np.array_equal(load(tmp_path / "sprites.zip").images, data.images)
    assert "12x12 colour with alpha" in describe(data)
    assert "6 transparent, colours multiplied by alpha" in describe(data)
    assert data_tags(data)["data.alpha"] == "premultiplied"
    assert warnings_of(data) == []
    assert "data.alpha" not in data_tags(load(folder, channels=3))
    assert np.array_equal(load(folder, channels=3).images, on_ground(data.images))


def test_what_shows_no_transparency_or_nothing_on_ground_is_said(tmp_path):
    (warning,) = warnings_of(load(saved(tmp_path / "opaque", mode="RGB")))
    assert "none of its images is transparent: data.channels=3" in warning
    white = RANDOM.copy()
    white[:, :3] = 255
    (warning,) = warnings_of(load(saved(tmp_path / "white", white)))
    assert "all but white on white, where they are measured; data.ground=black shows them" in warning
    data = load(tmp_path / "white", ground="black")
    assert warnings_of(data) == []
    assert "12x12 colour with alpha, measured on black" in describe(data)
    assert "12x12 colour with alpha, measured on white" in describe(load(tmp_path / "white"))


def test_a_ground_is_of_four_channels_alone(tmp_path):
    with pytest.raises(UserError, match=r"data\.ground=black belongs to data\.channels=4"):
        load(saved(tmp_path / "sprites"), channels=3, ground="black")


def test_two_channels_are_answered(tmp_path):
    with pytest.raises(UserError, match=r"channels=2: must be 1 \(greyscale\), 3 \(colour\) or 4 \(colour and alpha"):
        load(saved(tmp_path / "sprites"), channels=2)


def test_files_of_a_set_are_read_back_as_the_set(tmp_path):
    data = load(saved(tmp_path / "sprites"))
    again = load(saved(tmp_path / "again", straighten(data.images)))
    assert np.array_equal(again.images, data.images)
    assert again.digest == data.digest


def test_samples_with_alpha_from_files_and_arrays_are_one(tmp_path):
    folder, cache = saved(tmp_path / "made"), tmp_path / "cache"
    for name, array in (("last", RANDOM.transpose(0, 2, 3, 1)), ("first", RANDOM)):
        np.savez(tmp_path / f"{name}.npz", array)
    for path in (folder, tmp_path / "last.npz", tmp_path / "first.npz"):
        assert np.array_equal(samples(path, cache, (4, 12, 12)).images, premultiply(RANDOM))
    assert np.array_equal(samples(folder, cache, (3, 12, 12)).images, on_ground(premultiply(RANDOM)))
    with pytest.raises(UserError, match=r"four beside data with alpha: data\.channels=4"):  # whose ground is unknown
        samples(tmp_path / "last.npz", cache, (3, 12, 12))


def test_opaque_samples_beside_data_with_alpha_have_an_alpha_of_255(tmp_path):
    solid = RANDOM.copy()
    solid[:, 3] = 255
    np.savez(tmp_path / "colour.npz", RANDOM[:, :3])
    np.savez(tmp_path / "grey.npz", RANDOM[:, 0])
    for path in (saved(tmp_path / "made", solid, "RGB"), tmp_path / "colour.npz"):
        assert np.array_equal(samples(path, tmp_path / "cache", (4, 12, 12)).images, solid)
    grey = samples(tmp_path / "grey.npz", tmp_path / "cache", (4, 12, 12)).images
    assert np.array_equal(grey, np.concatenate([*[RANDOM[:, :1]] * 3, solid[:, 3:]], axis=1))


def test_a_grid_shows_transparency_on_squares(tmp_path):
    images = torch.zeros(2, 4, 8, 8, dtype=torch.uint8)
    images[1] = 255
    grid = enlarged_grid(images)
    assert grid.shape[2] == 3
    assert set(grid[6:54, 6:54].ravel().tolist()) == {204, 255}
    assert set(grid[6:54, 60:108].ravel().tolist()) == {255}


def test_a_part_of_what_lies_on_a_ground_lies_there_too(tmp_path):
    data = replace(load(saved(tmp_path / "sprites"), channels=3), ground="white")
    assert (data.part(3).ground, data.part(3).drawn_shape) == ("white", (4, 12, 12))
