"""Which files of a folder or a zip file are read, what is left out, and when they are read again."""

import io
import os
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantry.core.errors import UserError
from gantry.data import image_folder as folder_module
from gantry.data import named_files as files_module
from gantry.data.image_folder import image_folder
from gantry.data.sample_files import samples


def png(level, kind="PNG"):
    file = io.BytesIO()
    Image.new("L", (8, 8), level).save(file, kind)
    return file.getvalue()


def write(base, files):
    for name, content in files.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(content)
    return base


def zipped(path, files, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def load(base, **options):
    return image_folder(folder=str(base), cache=base.parent / "cache", image_size=8, **options)


def levels(data):
    return data.images[:, 0, 0, 0].tolist()


def test_pictures_of_other_endings_are_taken(tmp_path):
    kinds = {"a.JFIF": "JPEG", "b.jpe": "JPEG", "c.pbm": "PPM", "d.avif": "AVIF", "e.jp2": "JPEG2000", "f.tga": "TGA"}
    base = write(tmp_path / "data", {name: png(255, kind) for name, kind in kinds.items()})
    assert len(load(base)) == len(kinds)
    assert load(base).reading.left_out == {}


def test_files_without_an_ending_are_taken_where_they_are_pictures(tmp_path):
    files = {"0001": png(1), "0002": png(2, "JPEG"), "0003": png(3, "WEBP"), "README": b"text", "img.v2.of me": png(4)}
    data = load(write(tmp_path / "data", files))
    assert len(data) == 4
    assert data.reading.left_out == {"no ending": 1}


def test_what_is_left_out_is_counted_by_ending(tmp_path):
    files = {"a.png": png(1), "b.HEIC": b"x", "sub/c.heic": b"x", "d.txt": b"x", ".e.png": b"", "._a.png": b""}
    data = load(write(tmp_path / "data", files))
    assert data.reading.left_out == {".heic": 2, "hidden": 2, ".txt": 1}
    (tmp_path / "data/bad.png").write_bytes(b"x")
    assert load(tmp_path / "data", skip_unreadable=True).reading.left_out["unreadable"] == 1


def test_thumbnails_that_a_system_keeps_are_no_pictures(tmp_path):
    files = {"cat/a.png": png(1), "cat/@eaDir/a.png/SYNOPHOTO_THUMB_XL.png": png(9), "__MACOSX/cat/a.png": png(9)}
    assert levels(load(write(tmp_path / "data", files))) == [1]
    assert levels(load(zipped(tmp_path / "data.zip", files))) == [1]


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    with pytest.raises(UserError, match=r"there are 2 \.heic, 1 \.txt"):
        load(write(tmp_path / "data", {"a.heic": b"", "b.heic": b"", "c.txt": b""}))
    write(tmp_path / "archives", {"pets.zip": b""})
    with pytest.raises(UserError, match=rf"data\.folder={tmp_path}/archives/pets\.zip reads the zip file"):
        load(tmp_path / "archives")


PETS = {f"{kind}/{number}.png": png(10 * number + (kind == "dog")) for kind in ("cat", "dog") for number in range(3)}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("around", ["", "pets/"])
def test_a_zip_file_is_read_as_the_folder_is(tmp_path, method, around):
    folder = load(write(tmp_path / "pets", PETS))
    path = zipped(tmp_path / "pets.zip", {around + name: content for name, content in PETS.items()}, compression=method)
    data = load(path)
    assert np.array_equal(data.images, folder.images)
    assert (data.digest, data.name, data.classes) == (folder.digest, "pets", ("cat", "dog"))
    assert data.source == str(path)
    assert samples(path, tmp_path / "cache", (3, 8, 8)).digest == folder.digest


def test_a_zip_file_of_windows_and_of_another_ending(tmp_path):
    path = zipped(tmp_path / "pets.zip", {name.replace("/", "\\"): content for name, content in PETS.items()})
    assert load(path).classes == ("cat", "dog")
    assert load(shutil.copy(path, tmp_path / "download")).classes == ("cat", "dog")


def test_a_zip_file_is_opened_once_and_read_by_many_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "IN_MEMORY", 70)  # so that some are unpacked while they are decoded
    rng, threads = np.random.default_rng(0), set()
    pixels = rng.integers(0, 256, (300, 8, 8), dtype=np.uint8)
    files = {}
    for number, image in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files[f"{number:03}.png"] = file.getvalue()
    decode = folder_module.decode

    def noted(*args):
        threads.add(threading.get_ident())
        return decode(*args)

    monkeypatch.setattr(folder_module, "decode", noted)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    data = load(zipped(tmp_path / "many.zip", files, compression=zipfile.ZIP_DEFLATED), channels=1)
    assert np.array_equal(data.images[:, 0], pixels)
    assert len(threads) > 1


def test_a_zip_file_is_not_decoded_again_until_a_picture_in_it_changes(tmp_path, monkeypatch):
    path = zipped(tmp_path / "pets.zip", PETS)
    first = load(path)
    os.utime(path, ns=(0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "decode", lambda *args: pytest.fail("decoded again"))
        assert load(path).digest == first.digest
    zipped(path, PETS | {"cat/0.png": png(99)})
    os.utime(path, ns=(0, 0))
    assert levels(load(path))[0] == 99


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_zip_file_is_refused_by_name(tmp_path, damage):
    path = zipped(tmp_path / "pets.zip", PETS)
    path.write_bytes({"cut": path.read_bytes()[:-30], "text": b"a text", "empty": b""}[damage])
    with pytest.raises(UserError, match=rf"data\.folder={path} is no zip file that can be read"):
        load(path)


def test_members_of_a_zip_file_that_cannot_be_read_are_named(tmp_path):
    path = zipped(tmp_path / "pets.zip", PETS)
    content = bytearray(path.read_bytes())
    content[content.index(b"\x89PNG") + 40] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"1 of 6 images .*\n.*cat/0\.png"):
        load(path)
    assert len(load(path, skip_unreadable=True)) == 5


def test_array_files_are_no_data_set(tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="is a file, not a folder"):
        load(tmp_path / "a.npz")


OLD = 315532800 * 10**9  # 1980, as archives that can be reproduced have it


def pictures(base, level, count=20):
    """BMP files, all of one size and one time."""
    base.mkdir()
    for number in range(count):
        Image.new("RGB", (8, 8), (level, level, level)).save(base / f"{number}.bmp")
        os.utime(base / f"{number}.bmp", ns=(OLD, OLD))
    return base


@pytest.mark.parametrize("way", ["copied", "moved", "written over"])
def test_a_swapped_data_set_is_read_again(tmp_path, way):
    base, other = pictures(tmp_path / "data", 40), pictures(tmp_path / "other", 200)
    assert set(levels(load(base))) == {40}
    if way == "written over":
        for path in sorted(base.iterdir()):
            path.write_bytes((other / path.name).read_bytes())
            os.utime(path, ns=(OLD, OLD))
    else:
        shutil.rmtree(base)
        shutil.copytree(other, base) if way == "copied" else other.rename(base)
        for path in base.iterdir():
            os.utime(path, ns=(OLD, OLD))
    assert set(levels(load(base))) == {200}
    assert set(samples(base, tmp_path / "cache", (3, 8, 8)).images.flat) == {200}


def test_one_picture_swapped_is_read_again(tmp_path):
    base = pictures(tmp_path / "data", 40, count=200)
    load(base)
    Image.new("RGB", (8, 8), (90, 90, 90)).save(base / "77.bmp")
    os.utime(base / "77.bmp", ns=(OLD, OLD))
    assert sorted(set(levels(load(base)))) == [40, 90]


def test_a_swap_is_seen_where_the_file_system_keeps_no_time_of_change(tmp_path, monkeypatch):
    """As on a FAT disk, or a mounted image of one: then parts of the contents tell."""
    stamp = files_module._stamp
    monkeypatch.setattr(files_module, "_stamp", lambda path: stamp(path)[:2])
    base = pictures(tmp_path / "data", 40)
    load(base)
    shutil.rmtree(base)
    pictures(base, 200)
    assert set(levels(load(base))) == {200}


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_a_swapped_array_file_is_read_again(tmp_path, ending):
    path: Path = tmp_path / f"made.{ending}"
    for level in (40, 200):
        pixels = np.full((9, 8, 8, 3), level, np.uint8)
        np.save(path, pixels) if ending == "npy" else np.savez(path, pixels)
        os.utime(path, ns=(OLD, OLD))
        assert set(samples(path, tmp_path / "cache", (3, 8, 8)).images.flat) == {level}


def test_the_same_files_are_not_decoded_again(tmp_path, monkeypatch):
    base = pictures(tmp_path / "data", 40)
    load(base)
    monkeypatch.setattr(folder_module, "decode", lambda *args: pytest.fail("decoded again"))
    assert len(load(base)) == 20
