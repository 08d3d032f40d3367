"""`data.image_size`: one number or [height,width]; what is cropped for it, and what is said of that."""

import json

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from gantry.core.errors import UserError
from gantry.data import sources
from gantry.data.describe import data_tags, describe
from gantry.data.image_folder import image_folder
from gantry.data.images import decode, resize
from gantry.data.reading import Seen
from gantry.data.sample_files import samples
from gantry.data.sizes import as_given, central, proportions, sides


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (64, (64, 64)),
        ([48, 64], (48, 64)),
        ((64, 48), (64, 48)),
        (OmegaConf.create([8, 12]), (8, 12)),
        ([16, 16], (16, 16)),
    ],
)
def test_a_size_is_a_number_or_height_and_width(given, expected):
    assert sides(given) == expected


@pytest.mark.parametrize(
    "given", [[48], [1, 48, 64], "48x64", 48.5, True, None, [48, "64"], [0, 64], [-4, 64], 0, [True, 4]]
)
def test_anything_else_is_refused_with_an_example(given):
    with pytest.raises(UserError, match=r"data\.image_size.*\[height,width\] such as data\.image_size=\[48,64\]"):
        sides(given)


@pytest.mark.parametrize(
    ("size", "wanted", "box"),
    [
        ((60, 80), (48, 64), (0, 0, 80, 60)),
        ((60, 80), (64, 64), (10, 0, 70, 60)),
        ((61, 80), (8, 8), (9, 0, 70, 61)),  # as the central square always was
        ((60, 80), (64, 48), (17, 0, 62, 60)),
        ((100, 50), (48, 64), (0, 31, 50, 69)),
        ((1, 1), (48, 64), (0, 0, 1, 1)),
        ((1, 900), (512, 8), (449, 0, 450, 1)),
    ],
)
def test_the_central_part_has_the_wanted_proportions(size, wanted, box):
    assert central(*size, wanted) == box


def test_an_image_of_the_same_proportions_is_not_cropped(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = Seen()
    expected = np.asarray(Image.fromarray(pixels).resize((16, 12), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    assert np.array_equal(decode(tmp_path / "a.png", (12, 16), 3, seen), expected)
    assert seen.altered == {"reduced"}
    assert np.array_equal(decode(tmp_path / "a.png", (24, 32), 3), pixels.transpose(2, 0, 1))


def test_an_upright_picture_is_cropped_to_a_wide_one(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = Seen()
    assert np.array_equal(decode(tmp_path / "a.png", (12, 16), 1, seen)[0], pixels[14:26])
    assert seen.altered == {"cropped"}
    assert seen.cut == pytest.approx(28 / 40)


def test_what_was_cropped_is_said_and_kept(tmp_path):
    (tmp_path / "pets").mkdir()
    for number, (height, width) in enumerate(((12, 16), (40, 16), (16, 16))):
        Image.new("RGB", (width, height), (9, 99, 200)).save(tmp_path / f"pets/{number}.png")
    for _ in range(2):  # decoded, then from the cache
        data = image_folder(folder=str(tmp_path / "pets"), cache=tmp_path / "cache", image_size=[12, 16])
        assert data.shape == (3, 12, 16)
        first, *_, last = describe(data).splitlines()
        assert "16x12 (width x height) colour" in first
        assert last == "  altered: 2 cropped to the central 4:3 (70% of a picture cut off at most)"
        assert data_tags(data)["data.size"] == "16x12"
        assert data_tags(data)["data.altered"] == "cropped 2"


def test_equal_sides_are_a_square_with_the_same_cache(tmp_path):
    (tmp_path / "pets").mkdir()
    Image.new("L", (16, 16), 200).save(tmp_path / "pets/0.png")
    one, two = (
        image_folder(folder=str(tmp_path / "pets"), cache=tmp_path / "cache", image_size=size) for size in (8, [8, 8])
    )
    assert one.digest == two.digest
    assert len(list((tmp_path / "cache/images").glob("*.npy"))) == 1
    assert as_given(8, 8) == 8
    assert proportions(8, 8) == "square"


def test_a_cache_from_before_pictures_could_be_wide_is_read(tmp_path):
    (tmp_path / "pets").mkdir()
    Image.new("L", (16, 8), 200).save(tmp_path / "pets/0.png")
    options = {"folder": str(tmp_path / "pets"), "cache": tmp_path / "cache", "image_size": 8}
    image_folder(**options)
    (about,) = (path for path in (tmp_path / "cache/images").iterdir() if path.suffix == ".json")
    record = json.loads(about.read_text())
    del record["reading"]["cut"]
    about.write_text(json.dumps(record))
    stamp = next((tmp_path / "cache/images").glob("*.npy")).stat().st_mtime_ns
    assert describe(image_folder(**options)).endswith("1 cropped to the central square")
    assert next((tmp_path / "cache/images").glob("*.npy")).stat().st_mtime_ns == stamp


def test_named_data_sets_are_cropped_too(tmp_path):
    square, wide = (sources.digits(cache=tmp_path, image_size=size) for size in (8, [6, 8]))
    assert wide.shape == (1, 6, 8)
    assert np.array_equal(wide.images, square.images[:, :, 1:7])
    assert wide.digest != square.digest
    assert (
        describe(wide).splitlines()[-1]
        == "  altered: 1797 cropped to the central 4:3 (25% of a picture cut off at most)"
    )
    assert np.array_equal(resize(square.images, (6, 8)), wide.images)


def test_images_of_one_wide_size_are_refused_with_the_option_that_takes_them(tmp_path):
    np.save(tmp_path / "made.npy", np.zeros((5, 12, 20, 3), np.uint8))
    with pytest.raises(UserError, match=r"5 of 5 .* 16x16.*20x12 \(5\)[\s\S]*data\.image_size=\[12,20\]"):
        samples(tmp_path / "made.npy", tmp_path / "cache", (3, 16, 16))
    assert samples(tmp_path / "made.npy", tmp_path / "cache", (3, 12, 20)).shape == (3, 12, 20)
