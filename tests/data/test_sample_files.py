"""Anyone's images as they are measured: pixel for pixel, or refused with what to do."""

import logging
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_arrays import GREY, LABELS, NCHW, PIXELS, load, saved

from gantry.core.errors import UserError
from gantry.data import sample_files
from gantry.data.describe import describe, warnings_of

GREYS = np.repeat(PIXELS[..., :1], 3, 3)


def leftovers(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache/images").glob("*") if path.suffix != ".lock"]


def test_a_folder_is_read_pixel_for_pixel_with_its_sub_folders_as_labels(folder):
    data = load(folder)
    assert np.array_equal(data.images, NCHW)
    assert data.labels.tolist() == [0] * 4 + [1] * 3
    assert data.classes == ("cat", "dog")
    assert (data.name, data.split, data.flip, data.source) == ("made", "all", False, str(folder))


def test_oblong_images_are_not_cropped(tmp_path):
    (tmp_path / "made").mkdir()
    Image.fromarray(PIXELS[0, :8]).save(tmp_path / "made/a.png")
    assert np.array_equal(load(tmp_path / "made", (3, 8, 12)).images, NCHW[:1, :, :8])


def test_the_same_pixels_have_one_digest_however_they_are_kept(folder, tmp_path):
    labels = np.array([0] * 4 + [1] * 3)
    np.save(tmp_path / "made.npy", NCHW)
    assert load(folder).digest == load(saved(tmp_path, arr_0=PIXELS, arr_1=labels)).digest
    assert load(tmp_path / "made.npy").digest == load(saved(tmp_path, x=PIXELS)).digest


@pytest.mark.parametrize("key", ["arr_0", "images", "samples", "x"])
@pytest.mark.parametrize("pixels", [PIXELS, NCHW], ids=["NHWC", "NCHW"])
def test_an_npz_is_read_in_either_layout(tmp_path, key, pixels):
    data = load(saved(tmp_path, **{key: np.ascontiguousarray(pixels)}, mu=np.zeros(5)))
    assert np.array_equal(data.images, NCHW)
    assert data.labels is None
    assert isinstance(data.images, np.memmap)


def test_arrays_that_are_not_read_are_said(tmp_path):
    data = load(saved(tmp_path, images=PIXELS, labels=LABELS, label=LABELS, z=np.zeros(3)))
    assert data.reading.left_out == {"array label": 1, "array z": 1}
    assert "left out: 1 array label, 1 array z" in describe(data)
    assert load(saved(tmp_path, images=PIXELS, labels=LABELS)).reading.left_out == {}


def test_an_array_of_0_to_1_saved_as_whole_numbers_is_warned_of(tmp_path):
    assert warnings_of(load(saved(tmp_path, images=PIXELS))) == []
    (said,) = warnings_of(load(saved(tmp_path, images=(PIXELS / 255).astype(np.uint8))))
    assert "the brightest pixel of all its images is 1 of 255" in said
    black = warnings_of(load(saved(tmp_path, images=0 * PIXELS)))
    assert any("all pixels of all its images are equal" in said for said in black)


def test_strays_are_named(folder, tmp_path):
    Image.new("RGB", (50, 50)).save(folder / "cat/grid.png")
    with pytest.raises(UserError, match=r"1 of 8 images are not 12x12") as refused:
        load(folder)
    assert "cat/grid.png (50x50)\nRemove it." in str(refused.value)
    assert "yourself" not in str(refused.value)
    Image.new("RGB", (10, 90)).save(folder / "dog/loss.png")
    with pytest.raises(UserError, match=r"cat/grid\.png \(50x50\), dog/loss\.png \(10x90\)\nRemove them\."):
        load(folder)
    with pytest.raises(UserError, match=r"image_size=12 and remove the others: cat/grid\.png \(50x50\), dog/loss"):
        load(folder, (3, 16, 16))
    Image.new("RGB", (16, 16)).save(folder / "dog/fits.png")
    with pytest.raises(UserError, match=r"image_size=12 and remove the others: dog/fits\.png, cat/grid"):
        load(folder, (3, 16, 16))


def test_a_coloured_stray_is_named(folder):
    for place in range(6):
        Image.fromarray(GREYS[place]).save(folder / ("cat" if place < 4 else "dog") / f"{place}.png")
    with pytest.raises(UserError, match=r"1 of 7 images have colours[\s\S]*Remove dog/6\.png, or save"):
        load(folder, GREY)


def test_pictures_that_are_not_square_are_told_how_to_be_measured_at_their_own_shape(tmp_path):
    (tmp_path / "made").mkdir()
    for place in range(3):
        Image.new("RGB", (48, 16)).save(tmp_path / f"made/{place}.png")
    for path in (tmp_path / "made", saved(tmp_path, x=np.zeros((3, 16, 48, 3), np.uint8))):
        with pytest.raises(UserError, match=r"48x16 \(3\)[\s\S]*data.image_size=\[16,48\]") as refused:
            load(path)
        assert "as the reference data's are" not in str(refused.value)


def test_greyscale_is_repeated_for_colour_data(tmp_path):
    (tmp_path / "made").mkdir()
    Image.fromarray(PIXELS[0, :, :, 0]).save(tmp_path / "made/a.png")
    Image.fromarray(PIXELS[1]).save(tmp_path / "made/b.png")
    found = load(tmp_path / "made").images
    assert np.array_equal(found[0], NCHW[0, [0, 0, 0]])
    assert np.array_equal(found[1], NCHW[1])
    for grey in (PIXELS[..., 0], PIXELS[..., :1], NCHW[:, :1]):
        assert np.array_equal(load(saved(tmp_path, x=np.ascontiguousarray(grey))).images, NCHW[:, [0, 0, 0]])


def test_colour_files_that_are_grey_serve_greyscale_data_exactly(tmp_path):
    """All 256 levels: a weighted sum of channels that rounds would show."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (tmp_path / "made").mkdir()
    Image.fromarray(levels).convert("RGB").save(tmp_path / "made/a.png")
    Image.fromarray(levels).convert("RGBA").save(tmp_path / "made/b.png")
    Image.fromarray(levels).save(tmp_path / "made/c.png")
    assert (load(tmp_path / "made", (1, 16, 16)).images == levels).all()
    assert np.array_equal(load(saved(tmp_path, x=GREYS), GREY).images, NCHW[:, :1])


def test_colours_are_refused_for_greyscale_data(folder, tmp_path):
    for place in range(2):
        Image.fromarray(GREYS[place]).save(folder / f"cat/{place}.png")
    with pytest.raises(UserError, match=r"5 of 7 images have colours, the first is cat/2\.png"):
        load(folder, GREY)
    one = GREYS.copy()
    one[5, 3, 3, 2] ^= 1
    with pytest.raises(UserError, match="index 5 has colours"):
        load(saved(tmp_path, x=one), GREY)
    assert not leftovers(tmp_path)


def test_other_sizes_are_refused_with_what_to_do(folder, tmp_path):
    with pytest.raises(UserError) as refused:
        load(folder, (3, 16, 16))
    message = str(refused.value)
    assert "7 of 7 images are not 16x16" in message
    assert "12x12 (7)" in message
    assert "data.image_size=12" in message
    assert "sheets" not in message
    with pytest.raises(UserError, match="If they are sheets of several images, save single images instead"):
        load(folder, (3, 6, 6))
    Image.new("RGB", (20, 12)).save(folder / "dog/wide.png")
    with pytest.raises(UserError, match=r"1 of 8 images are not 12x12[^;]*: 20x12 \(1\)") as refused:
        load(folder)
    assert "data.image_size" not in str(refused.value)  # no size is that of all
    for pixels in (PIXELS, np.ascontiguousarray(NCHW)):
        with pytest.raises(UserError, match=r"7 of 7[\s\S]*12x12 \(7\)[\s\S]*data.image_size=12"):
            load(saved(tmp_path, x=pixels), (3, 16, 16))


def test_unreadable_files_are_named(folder):
    (folder / "cat/0.png").write_bytes((folder / "cat/0.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"1 of 7 images cannot be read:\n  cat/0\.png"):
        load(folder)


def test_lossy_files_are_warned_of(folder, caplog):
    with caplog.at_level(logging.WARNING):
        load(folder)
    assert not caplog.text
    Image.fromarray(PIXELS[0]).save(folder / "cat/x.JPG", quality=95)
    load(folder)
    assert "1 of 8 images" in caplog.text
    assert "compression changes the scores" in caplog.text


def test_the_second_start_maps_the_cache_and_a_changed_file_is_read_again(tmp_path, monkeypatch):
    path = saved(tmp_path, x=PIXELS, y=LABELS)
    first = load(path)
    with monkeypatch.context() as patch:
        patch.setattr(sample_files, "_array", None)
        again = load(path)
    assert np.array_equal(again.images, first.images)
    assert again.labels.tolist() == LABELS.tolist()
    assert again.digest == first.digest
    (pixels,) = (tmp_path / "cache/images").glob("*.npy")
    pixels.write_bytes(pixels.read_bytes()[:-1])
    assert load(path).digest == first.digest
    assert load(saved(tmp_path, x=PIXELS[:3])).images.shape == (3, 3, 12, 12)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_files, "CHUNK_BYTES", 2**16)
    path = saved(tmp_path, x=np.zeros((20_000, 12, 12, 3), np.uint8))  # 8.6 MB
    tracemalloc.start()
    try:
        data = load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(data) == 20_000
    assert peak < 2e6


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty"])
@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_a_damaged_file_is_refused_and_leaves_nothing(tmp_path, damage, ending):
    path = tmp_path / f"made.{ending}"
    np.savez(path, x=PIXELS) if ending == "npz" else np.save(path, PIXELS)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        place = len(content) // 2 if ending == "npz" else 3  # an .npy has no checksum: its magic bytes
        content[place] ^= 1
    path.write_bytes({"truncated": content[:-200], "text": b"hello", "empty": b""}.get(damage, content))
    with pytest.raises(UserError, match=rf"made\.{ending} cannot be read: ."):
        load(path)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (dict(pictures=PIXELS, mu=LABELS), "holds pictures, mu; the images must be called one of arr_0, images"),
        (dict(x=PIXELS, images=PIXELS), "images and x"),
        (dict(x=PIXELS / np.float32(255)), r"float32[\s\S]*0..1, -1..1 or 0..255"),
        (dict(x=PIXELS.astype(int)), "int64"),
        (dict(x=PIXELS[:0]), "no images"),
        (dict(x=np.uint8(3)), "no images"),
        (dict(x=PIXELS.reshape(7, -1)), "is not that of images"),
        (dict(x=np.concatenate([PIXELS, PIXELS[..., :1]], 3)), r"\(7, 12, 12, 4\) is not that of images"),
        (dict(x=np.asfortranarray(PIXELS)), "ascontiguousarray"),
        (dict(x=np.array([{}] * 7)), "Python objects"),
    ],
)
def test_arrays_that_cannot_serve_are_refused(tmp_path, arrays, said):
    with pytest.raises(UserError, match=said):
        load(saved(tmp_path, **arrays))
    assert not leftovers(tmp_path)


def test_a_layout_that_may_be_either_is_refused(tmp_path):
    with pytest.raises(UserError, match="may be"):
        load(saved(tmp_path, x=PIXELS[:, :3, :3]), (3, 3, 3))


@pytest.mark.parametrize("case", ["missing", "empty folder", "zip"])
def test_paths_that_cannot_serve_are_refused_by_name(tmp_path, case):
    target = tmp_path / ("made.zip" if case == "zip" else "made")
    if case == "zip":
        zipfile.ZipFile(target, "w").close()
    elif case == "empty folder":
        target.mkdir()
    said = {"missing": "does not exist", "empty folder": "is empty", "zip": "is not a folder"}[case]
    with pytest.raises(UserError, match=f"images={target} {said}"):
        load(target)


def altered_files(folder: Path) -> dict[str, bool]:
    """Files of all kinds in `folder`, and whether Gantry reads other pixels than Pillow's conversion to RGB."""
    folder.mkdir()
    rgb, grey = Image.fromarray(PIXELS[0]), Image.fromarray(PIXELS[0, :, :, 0])
    half = Image.fromarray(np.where(np.arange(144).reshape(12, 12) % 2, 255, 99).astype(np.uint8))
    clear, opaque, shaded, turned = rgb.copy(), rgb.copy(), grey.convert("LA"), Image.Exif()
    clear.putalpha(half)
    opaque.putalpha(255)
    shaded.putalpha(half)
    white = Image.new("RGBA", (12, 12), (255, 255, 255, 9))
    palette = rgb.quantize(16)
    turned[0x0112] = 6
    clear.save(folder / "clear.png")
    shaded.save(folder / "shaded.png")
    palette.save(folder / "clear_palette.png", transparency=0)
    Image.fromarray(PIXELS[0, :, :, 0].astype(np.uint16) * 257).save(folder / "deep.png")
    rgb.save(folder / "turned.png", exif=turned)
    opaque.save(folder / "opaque.png")
    white.save(folder / "white.png")
    palette.save(folder / "palette.png")
    rgb.convert("CMYK").save(folder / "cmyk.tif")
    rgb.save(folder / "first.gif", save_all=True, append_images=[rgb.rotate(90)])
    rgb.save(folder / "plain.png")
    grey.point(lambda level: level > 99).convert("1").save(folder / "bits.png")
    return {path.name: path.stem in ["clear", "shaded", "clear_palette", "deep", "turned"] for path in folder.iterdir()}


def test_files_of_which_other_tools_read_other_pixels_are_counted_and_said(tmp_path, caplog):
    expected = altered_files(tmp_path / "made")
    for _ in range(2):  # the second from the cache
        caplog.clear()
        data = load(tmp_path / "made")
        assert data.reading.read_otherwise == sum(expected.values()) == 5
        (said,) = (record.message for record in caplog.records)
        assert f"5 of 12 images in {tmp_path}/made are altered before they are measured" in said
        assert "transparent, laid on white" in said
        assert "torch-fidelity, pytorch-fid and clean-fid do not do that, and give other values" in said


def test_the_pixels_of_all_other_files_are_torch_fidelitys(tmp_path):
    from torch_fidelity.datasets import ImagesPathDataset

    expected = altered_files(tmp_path / "made")
    data = load(tmp_path / "made")
    for pixels, name in zip(data.images, sorted(expected), strict=True):
        theirs = ImagesPathDataset([str(tmp_path / "made" / name)])[0].numpy()
        assert np.array_equal(pixels, theirs) is not expected[name], name
