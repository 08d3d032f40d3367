"""Any bytes at all as an image file: pixels of the right shape, or a refusal that names the file."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from gantry.core.errors import UserError
from gantry.data.image_folder import image_folder
from gantry.data.sample_files import samples

KINDS = {"png": {}, "jpg": {}, "gif": {}, "webp": {"lossless": True}, "tif": {"compression": "tiff_deflate"}, "bmp": {}}


def sound(ending, mode="RGB"):
    """A small image file's bytes."""
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, Image.registered_extensions()[f".{ending}"], **KINDS[ending])
    return file.getvalue()


SOUND = {ending: sound(ending) for ending in KINDS}


def bomb(side):
    """A PNG whose head promises a square of this side, with hardly any data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


@st.composite
def files(draw):
    """A file's ending and its bytes: of a sound image with some of them changed, cut or doubled, or anything."""
    ending, kind = draw(st.sampled_from(sorted(KINDS))), draw(st.sampled_from(sorted(KINDS)))
    content = bytearray(SOUND[kind])
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, min(len(content) - 1, draw(st.sampled_from([40, 10**6])))))
        content[place] = draw(st.integers(0, 255))
    content = content[: draw(st.integers(0, len(content)) | st.just(len(content)))]
    return ending, draw(st.just(bytes(content)) | st.binary(max_size=64) | st.just(bytes(content) * 2))


def answered(tmp_path_factory, file):
    """The file, alone and beside a sound one, as data to train on and as images to measure."""
    ending, content = file
    base = tmp_path_factory.mktemp("images")
    (base / f"it.{ending}").write_bytes(content)
    (base / "sound.png").write_bytes(SOUND["png"])
    for read in (
        lambda: image_folder(folder=str(base), cache=base / ".cache", image_size=8),
        lambda: samples(base, base / ".cache", (3, 8, 8)),
    ):
        try:
            images, refusal = read(), None
        except UserError as error:
            refusal = str(error)
        if refusal is None:
            assert images.images.shape == (2, 3, 8, 8)
            assert images.images.dtype == np.uint8
        else:
            assert f"it.{ending}" in refusal or "not 8x8" in refusal
    images = image_folder(folder=str(base), cache=base / ".cache", image_size=8, skip_unreadable=True)
    assert len(images) + images.skipped == 2


def test_any_bytes_are_pixels_or_a_refusal(tmp_path_factory):
    ask(tmp_path_factory, max_examples=30, derandomize=True)


@pytest.mark.slow
def test_many_bytes_are_pixels_or_a_refusal(tmp_path_factory):
    ask(tmp_path_factory, max_examples=5000)


def ask(tmp_path_factory, **options):
    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), **options)
    @example(("png", b""))
    @example(("png", b"a text"))
    @example(("png", bomb(10_000)))
    @example(("png", bomb(12_000)))
    @example(("png", bomb(60_000)))
    @example(("gif", SOUND["png"]))
    @given(files())
    def asked(file):
        answered(tmp_path_factory, file)

    asked()
