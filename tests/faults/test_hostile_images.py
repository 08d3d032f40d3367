"""Images from elsewhere: unusual ones are taken, impossible ones refused by name."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hostile_files import resident, row
from PIL import Image

from gantry.core.errors import UserError
from gantry.data.image_folder import image_folder
from gantry.data.sample_files import samples

# --- images ---


COLOURS = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
RGB = Image.fromarray(COLOURS)
TURNED = Image.Exif()
TURNED[0x0112] = 6
UNUSUAL = {  # each has one meaning, and is taken
    "animated.gif": lambda path: RGB.save(path, save_all=True, append_images=[RGB.rotate(90)] * 3),
    "animated.png": lambda path: RGB.save(path, save_all=True, append_images=[RGB.rotate(90)] * 3),
    "animated.webp": lambda path: RGB.save(path, save_all=True, append_images=[RGB.rotate(90)], lossless=True),
    "sixteen.png": lambda path: Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(path),
    "palette.png": lambda path: RGB.quantize(8).save(path, transparency=0),
    "cmyk.jpg": lambda path: RGB.convert("CMYK").save(path),
    "turned.jpg": lambda path: RGB.save(path, exif=TURNED),
    "misnamed.jpg": lambda path: RGB.save(path, "PNG"),
}
IMPOSSIBLE = {  # and why they are refused
    "empty.png": (lambda path: path.touch(), "cannot identify image file"),
    "text.png": (lambda path: path.write_text("no image"), "cannot identify image file"),
    "cut.png": (lambda path: path.write_bytes(_png(RGB)[:-40]), "cannot identify|truncated|broken"),
    "bomb.png": (lambda path: path.write_bytes(bomb(10_000)), "decompression bomb|exceeds limit"),
    "float.tif": (lambda path: Image.fromarray(np.zeros((8, 8), np.float32)).save(path), "no fixed range"),
    "pipe.png": (os.mkfifo, "no regular file"),
    "device.png": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "itself.png": (lambda path: path.symlink_to(path), "symbolic links"),
    "nowhere.png": (lambda path: path.symlink_to(path.with_name("not-there")), "No such file"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_image_is_taken(tmp_path, name):
    UNUSUAL[name](tmp_path / name)
    for images in (
        image_folder(folder=str(tmp_path), cache=tmp_path / ".cache", image_size=8),
        samples(tmp_path, tmp_path / ".cache", (3, 8, 8)),
    ):
        assert images.images.shape == (1, 3, 8, 8)
        if name in ("animated.png", "animated.webp", "misnamed.jpg"):  # of an animation, the first frame
            assert (images.images[0] == COLOURS.transpose(2, 0, 1)).all()


def test_impossible_images_are_refused_by_name_or_left_out_and_counted(tmp_path, record_property):
    RGB.save(tmp_path / "sound.png")
    (tmp_path / "folder").symlink_to(tmp_path)
    before = resident()
    for name, (write, why) in IMPOSSIBLE.items():
        write(tmp_path / name)
        with pytest.raises(
            UserError, match=rf"1 of 2 images in .* cannot be read:\n  {name}: .*({why})(.|\n)*skip_unreadable"
        ):
            image_folder(folder=str(tmp_path), cache=tmp_path / ".cache", image_size=8)
        with pytest.raises(UserError, match=rf"1 of 2 images .*\n?.*({why}|10000x10000)"):
            samples(tmp_path, tmp_path / ".cache", (3, 8, 8))
        found = image_folder(folder=str(tmp_path), cache=tmp_path / ".cache", image_size=8, skip_unreadable=True)
        assert (len(found), found.skipped) == (1, 1)
        (tmp_path / name).unlink()
    assert resident() - before < 100 * 2**20
    record_property("fault", row("images that are none: cut, bombs, pipes, loops", 2 * len(IMPOSSIBLE)))


def test_a_folder_that_leads_to_itself_is_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"data\.folder=.*loop"):
        image_folder(folder=str(tmp_path / "loop"), cache=tmp_path)
    with pytest.raises(UserError, match=r"images=.*loop"):
        samples(tmp_path / "loop", tmp_path, (3, 8, 8))
    with pytest.raises(UserError, match=r"data\.folder=~no-such-user"):
        image_folder(folder="~no-such-user/x", cache=tmp_path)


def bomb(side):
    """A PNG whose head promises a square of this side."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return _png(RGB)[:8] + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + _png(RGB)[33:]


def _png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
