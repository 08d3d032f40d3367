"""What a start says about its data: counts, sizes, classes, what was left out and what was altered."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gantry.data import sources
from gantry.data.describe import data_record, data_tags, describe, warnings_of
from gantry.data.image_folder import image_folder
from gantry.data.images import ImageSet
from gantry.data.sample_files import samples


def load(base, **options):
    return image_folder(folder=str(base), cache=base.parent / "cache", **{"image_size": 8} | options)


def exif(*entries):
    """EXIF of these (tag, type, count, four bytes)."""
    packed = sorted(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(packed) + b"\0\0\0\0"


TURNED = (0x0112, 3, 1, b"\x06\0\0\0")


@pytest.fixture
def base(tmp_path):
    """Two classes of every kind of file."""
    base = tmp_path / "pets"
    for kind in ("cat", "dog"):
        (base / kind).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(pixels[..., :3]).save(base / "cat/plain.png")
    Image.fromarray(pixels).save(base / "cat/alpha.png")
    Image.fromarray(np.dstack([pixels[..., :3], np.full((8, 8), 255, np.uint8)])).save(base / "cat/opaque.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(base / "cat/deep.png")
    Image.new("RGB", (16, 8), "white").save(base / "dog/turned.jpg", exif=exif(TURNED))
    Image.new("RGB", (4, 4)).save(base / "dog/small.png")
    frames = [Image.new("L", (8, 8), level) for level in (0, 255)]
    frames[0].save(base / "dog/moves.gif", save_all=True, append_images=frames[1:])
    (base / "dog/notes.txt").write_text("x")
    (base / "dog/bad.png").write_bytes(b"x")
    return base


def test_the_lines_say_what_was_read_left_out_and_altered(base):
    data = load(base, skip_unreadable=True)
    assert describe(data).splitlines() == [
        "pets: 7 images (all), 8x8 colour, 2 classes by sub-folder: cat (4), dog (3)",
        "  from 7 files (5 PNG, 1 GIF, 1 JPEG) of 3 sizes, 4x4 to 8x16, 5 of them 8x8",
        "  left out: 1 unreadable, 1 .txt",
        "  altered: 1 transparent, laid on white, 1 16 bits a channel, scaled to 8, 1 turned upright by EXIF, "
        "1 cropped to the central square (50% of a picture cut off at most), 1 enlarged, "
        "1 animations, of which the first frame is taken",
    ]
    assert data.skipped == 1


def test_the_record_and_the_tags_hold_the_same_and_the_cache_keeps_them(base):
    for _ in range(2):
        data = load(base, skip_unreadable=True)
        record = json.loads(json.dumps(data_record(data)))
        assert record["images"] == 7
        assert record["classes"] == {"cat": 4, "dog": 3}
        assert record["reading"]["left_out"] == {".txt": 1, "unreadable": 1}
        assert record["reading"]["altered"]["composited_on_ground"] == 1
        assert record["reading"]["sizes"][0] == [[8, 8], 5]
        tags = data_tags(data)
        assert tags["data.images"] == "7"
        assert tags["data.skipped"] == "1"
        assert tags["data.left_out"] == "1 unreadable, 1 .txt"
        assert tags["data.altered"].startswith("composited_on_ground 1, scaled_from_16_bits 1, turned_by_exif 1")


def test_colours_that_are_dropped_are_said(base):
    assert "stored in colour, made grey" in describe(load(base, channels=1, skip_unreadable=True))


def test_images_measured_as_they_are_say_what_was_altered_too(base, tmp_path):
    for name in ("cat/deep.png", "dog/turned.jpg", "dog/small.png", "dog/moves.gif", "dog/bad.png"):
        (base / name).unlink()
    assert samples(base, tmp_path / "cache", (3, 8, 8)).reading.altered == {"composited_on_ground": 1}


def test_named_data_sets_are_described(tmp_path):
    digits = sources.digits(cache=tmp_path, image_size=16)
    assert describe(digits).splitlines()[1:] == ["  from 1797 images of 8x8", "  altered: 1797 enlarged"]
    few = describe(sources.digits(cache=tmp_path).part(100))
    assert few.startswith("digits: 100 images (all-100), 8x8 greyscale, 10 classes: 0 (")
    own = ImageSet("own", np.zeros((5, 3, 8, 8), np.uint8), None, None, "all", "here", "0", flip=False)
    assert describe(own) == "own: 5 images (all), 8x8 colour, no labels"
    assert data_record(own)["reading"] is None
    assert warnings_of(own) == []


def test_labels_without_a_name_and_classes_without_an_image_are_counted_too():
    labels = np.array([-1, 0, 0, 3])
    own = ImageSet("own", np.zeros((4, 1, 8, 8), np.uint8), labels, ("a", "b"), "all", "here", "0", flip=False)
    assert describe(own) == "own: 4 images (all), 8x8 greyscale, 4 classes: -1 (1), a (2), b (0), 3 (1)"


def test_many_classes_are_counted(tmp_path):
    for number in range(30):
        path = tmp_path / f"data/kind_{chr(97 + number % 26)}{number}/0.png"
        path.parent.mkdir(parents=True)
        for copy in range(2):
            Image.new("L", (8, 8), 200).save(path.with_name(f"{copy}.png"))
    assert describe(load(tmp_path / "data")).splitlines()[0].endswith(" and 20 more")


@pytest.mark.parametrize(("bits", "times"), [(10, 64), (12, 16), (14, 4)])
def test_fewer_bits_in_16_bit_files_are_hinted_at(tmp_path, bits, times):
    (tmp_path / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 2**bits, (40, 8, 8), dtype=np.uint16)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"data/{number}.png")
    (warning,) = warnings_of(load(tmp_path / "data", channels=1))
    assert f"Are they {bits}-bit pictures? Multiply by {times}" in warning
    assert f"is {pixels.max()}, " in warning


def test_class_numbers_taken_for_grey_levels_are_hinted_at(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(3):
        Image.fromarray(np.random.default_rng(number).integers(0, 2, (8, 8), dtype=np.uint8)).save(
            tmp_path / f"data/{number}.png"
        )
    (warning,) = warnings_of(load(tmp_path / "data"))
    assert "the brightest pixel of all its images is 1 of 255" in warning


ODD = {
    "a width in words": [TURNED, (0x100, 2, 4, b"640\0")],
    "a resolution in words": [TURNED, (0x11A, 2, 4, b"72\0\0")],
    "an orientation in words": [(0x112, 2, 2, b"6\0\0\0")],
    "an orientation of two values": [(0x112, 3, 2, b"\x06\0\x06\0")],
    "an unknown type": [TURNED, (0x100, 99, 4, b"640\0")],
    "an offset into nothing": [TURNED, (0x10F, 2, 400, b"\xff\xff\xff\x7f")],
}


@pytest.mark.parametrize("case", ODD)
def test_odd_exif_is_read_leniently(tmp_path, case):
    """The picture, lying with its left half white, is turned clockwise as the orientation says: white on top."""
    stored = np.zeros((16, 16, 3), np.uint8)
    stored[:, :8] = 255
    (tmp_path / "data").mkdir()
    for ending, options in (("jpg", {"quality": 95}), ("png", {}), ("webp", {"lossless": True})):
        Image.fromarray(stored).save(tmp_path / f"data/x.{ending}", exif=exif(*ODD[case]), **options)
    data = load(tmp_path / "data", image_size=16)
    assert len(data) == 3
    assert data.images[:, :, :7].min() > 240
    assert data.images[:, :, 9:].max() < 15
    assert data.reading.altered["turned_by_exif"] == 3


@pytest.mark.parametrize(
    "metadata",
    [
        b"Exif\0\0nonsense",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        exif((0x112, 3, 1, b"\x63\0\0\0")),
        exif((0x112, 7, 4, b"abcd")),
    ],
)
def test_metadata_that_cannot_be_understood_leaves_the_picture_as_it_is_stored(tmp_path, metadata):
    (tmp_path / "data").mkdir()
    for ending in ("jpg", "png", "webp"):
        Image.new("RGB", (8, 8), "white").save(tmp_path / f"data/x.{ending}", exif=metadata)
    data = load(tmp_path / "data")
    assert (data.images == 255).all()
    assert len(data) == 3
    assert "turned_by_exif" not in data.reading.altered


def test_a_tiff_turned_by_pillow_itself_is_turned_once(tmp_path):
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[:, :8] = 255
    (tmp_path / "data").mkdir()
    for compression in ("raw", "tiff_deflate"):
        Image.fromarray(stored).save(
            tmp_path / f"data/{compression}.tif", tiffinfo={0x0112: 6}, compression=compression
        )
    data = load(tmp_path / "data")
    assert data.images[:, :, :3].min() == 255
    assert data.images[:, :, 5:].max() == 0
    assert data.reading.altered["turned_by_exif"] == 2
    assert data.reading.smallest == (8, 16)


@pytest.mark.parametrize("damage", ["long", "checksum"])
def test_texts_that_pillow_refuses_do_not_stop_a_png(tmp_path, damage):
    """Programs that make images write how they did; Pillow refuses text that unpacks to more than a megabyte."""
    info = PngInfo()
    info.add_text("workflow", "x" * (3_000_000 if damage == "long" else 10), zip=damage == "long")
    path = tmp_path / "data/x.png"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, pnginfo=info)
    if damage == "checksum":
        path.write_bytes(path.read_bytes().replace(b"workflow", b"workflaw"))
    with pytest.raises((ValueError, OSError)):
        Image.open(path).load()
    data = load(tmp_path / "data")
    assert np.array_equal(data.images[0], pixels.transpose(2, 0, 1))
    assert data.reading.altered == {"metadata_ignored": 1}


def test_nothing_is_printed_of_odd_metadata(tmp_path: Path, recwarn):
    (tmp_path / "data").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "data/x.jpg", exif=exif(TURNED, (0x10F, 2, 400, b"\xff\xff\xff\x7f")))
    load(tmp_path / "data")
    assert [str(one.message) for one in recwarn] == []
