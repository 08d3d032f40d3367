"""A folder of images: what is read, what is refused, and the cache that the second start maps into memory."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantry.core.errors import UserError
from gantry.data import image_folder as folder_module
from gantry.data.image_folder import image_folder


def save(path: Path, level: int, size: tuple[int, int] = (20, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)


def load(base: Path, **options):
    options = {"image_size": 8} | options
    return image_folder(folder=str(base), cache=base.parent / "cache", **options)


def levels(data) -> list[int]:
    return data.images[:, 0, 0, 0].tolist()


@pytest.fixture
def base(tmp_path):
    """Two classes, mixed sizes and formats, with what must be left alone beside them."""
    base = tmp_path / "pictures"
    save(base / "cat/b.png", 20)
    save(base / "cat/a.bmp", 10, (9, 5))
    save(base / "cat/deeper/C.PNG", 30, (200, 100))
    save(base / "dog/a.gif", 40)
    save(base / "dog/.hidden.png", 90)
    save(base / ".thumbnails/a.png", 91)
    (base / "dog/notes.txt").write_text("not an image")
    return base


@pytest.fixture
def no_decoding(monkeypatch):
    def fail(*args):
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(folder_module, "decode", fail)


def test_a_tree_becomes_one_array_in_path_order_with_labels(base):
    data = load(base)
    assert levels(data) == [10, 20, 30, 40]
    assert (data.images.shape, data.images.dtype) == ((4, 3, 8, 8), np.uint8)
    assert data.labels.tolist() == [0, 0, 0, 1]
    assert data.labels.dtype == np.int64
    assert data.classes == ("cat", "dog")
    assert (data.name, data.split, data.flip, data.skipped) == ("pictures", "all", True, 0)
    assert load(base, channels=1, flip=False).shape == (1, 8, 8)


def test_no_labels_without_two_sub_folders_that_hold_everything(base, tmp_path):
    save(tmp_path / "flat/a.png", 1)
    save(tmp_path / "one/only/a.png", 1)
    save(base / "loose.png", 50)
    for folder in (tmp_path / "flat", tmp_path / "one", base):
        data = load(folder)
        assert data.labels is None
        assert data.classes is None


def test_the_second_start_maps_the_cache_and_decodes_nothing(base, no_decoding):
    first = load(base)
    no_decoding()
    second = load(base)
    assert isinstance(second.images, np.memmap)
    assert not second.images.flags.writeable
    assert np.array_equal(first.images, second.images)
    assert first.digest == second.digest
    assert first.labels.tolist() == second.labels.tolist()
    assert first.classes == second.classes


@pytest.mark.parametrize("change", ["edit", "add", "remove", "touch"])
def test_a_changed_folder_is_decoded_again(base, change):
    before = load(base)
    if change == "edit":
        save(base / "cat/b.png", 25)
        os.utime(base / "cat/b.png", ns=(0, 1))
    elif change == "add":
        save(base / "cat/z.png", 35)
    elif change == "remove":
        (base / "cat/b.png").unlink()
    else:
        os.utime(base / "cat/b.png", ns=(0, 2))
    expected = {
        "edit": [10, 25, 30, 40],
        "add": [10, 20, 30, 35, 40],
        "remove": [10, 30, 40],
        "touch": [10, 20, 30, 40],
    }
    after = load(base)
    assert levels(after) == expected[change]
    assert (after.digest == before.digest) == (change == "touch")


def test_size_and_channels_have_their_own_cache(base):
    assert load(base).shape == (3, 8, 8)
    assert load(base, image_size=12).shape == (3, 12, 12)
    assert load(base, channels=1).shape == (1, 8, 8)
    assert load(base).shape == (3, 8, 8)


@pytest.mark.parametrize("damage", ["truncated pixels", "empty pixels", "no pixels", "broken sidecar", "other sidecar"])
def test_a_damaged_cache_is_made_again(base, damage):
    first = load(base)
    expected = first.images.copy()
    (pixels,) = (base.parent / "cache/images").glob("*.npy")
    if damage == "truncated pixels":
        pixels.write_bytes(pixels.read_bytes()[:-10])
    elif damage == "empty pixels":
        pixels.write_bytes(b"")
    elif damage == "no pixels":
        pixels.unlink()
    else:
        pixels.with_suffix(".json").write_text('{"shape": [4,' if damage == "broken sidecar" else "[]")
    again = load(base)
    assert np.array_equal(again.images, expected)
    assert again.digest == first.digest


def test_unreadable_files_are_named_and_refused(base):
    whole = (base / "cat/b.png").read_bytes()
    (base / "cat/cut.png").write_bytes(whole[: len(whole) // 2])
    (base / "dog/text.jpg").write_text("hello")
    with pytest.raises(UserError) as refused:
        load(base)
    message = str(refused.value)
    assert "2 of 6 images" in message
    assert "cat/cut.png" in message
    assert "dog/text.jpg" in message
    assert "data.skip_unreadable=true" in message
    assert not list((base.parent / "cache/images").glob("*.npy"))


def test_unreadable_files_can_be_skipped_and_are_counted(base, no_decoding):
    for name in ("cat/0.png", "cat/bad.png", "dog/z.webp"):
        (base / name).write_bytes(b"")
    (base / "lost").mkdir()
    (base / "lost/link.png").symlink_to(base / "nowhere.png")
    data = load(base, skip_unreadable=True)
    assert levels(data) == [10, 20, 30, 40]
    assert data.labels.tolist() == [0, 0, 0, 1]
    assert data.classes == ("cat", "dog")  # "lost" holds nothing that can be read
    assert data.skipped == 4
    no_decoding()
    assert load(base, skip_unreadable=True).skipped == 4
    with pytest.raises(UserError, match="4 of 8 images"):
        load(base)


def test_skipping_leaves_the_same_data_as_a_folder_without_the_bad_files(base):
    clean = load(base)
    for number in range(8):  # 12 files become 4: the array's header loses a digit
        (base / f"cat/bad{number}.png").write_bytes(b"x")
    data = load(base, skip_unreadable=True)
    assert data.digest == clean.digest
    assert np.array_equal(data.images, clean.images)


def test_the_message_names_five_files_at_most(tmp_path):
    for number in range(9):
        path = tmp_path / f"bad/{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    with pytest.raises(UserError) as refused:
        load(tmp_path / "bad", skip_unreadable=True)
    message = str(refused.value)
    assert "9 of 9 images" in message
    assert [f"{number}.png:" in message for number in range(9)] == [True] * 5 + [False] * 4
    assert "and 4 more" in message
    assert "skip_unreadable" not in message  # it would leave nothing


@pytest.mark.parametrize("side", [12, 40])
def test_decompression_bombs_are_unreadable(tmp_path, monkeypatch, side):
    """Pillow warns above its limit and raises above twice the limit: both are refused here."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    save(tmp_path / "bombs/fine.png", 5, (8, 8))
    save(tmp_path / "bombs/huge.png", 5, (side, side))
    with pytest.raises(UserError, match=r"huge\.png"):
        load(tmp_path / "bombs")
    assert levels(load(tmp_path / "bombs", skip_unreadable=True)) == [5]


def test_order_holds_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "CHUNK", 4)
    for level in range(11):
        save(tmp_path / f"many/{level:03}.png", level)
    assert levels(load(tmp_path / "many")) == list(range(11))


def test_links_are_followed_once(base, tmp_path):
    save(tmp_path / "elsewhere/a.png", 60)
    (base / "elk").symlink_to(tmp_path / "elsewhere")
    (base / "elk-again").symlink_to(tmp_path / "elsewhere")
    (base / "cat/up").symlink_to(base)
    data = load(base)
    assert levels(data) == [10, 20, 30, 40, 60]
    assert data.classes == ("cat", "dog", "elk")
    assert data.reading.left_out["linked twice"] == 2


def test_jobs_that_start_together_decode_once(base, monkeypatch):
    decoded = []
    decode = folder_module.decode
    monkeypatch.setattr(folder_module, "decode", lambda path, *args: (decoded.append(path), decode(path, *args))[1])
    results = []
    jobs = [threading.Thread(target=lambda: results.append(levels(load(base)))) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert results == [[10, 20, 30, 40]] * 4
    assert len(decoded) == 4


@pytest.mark.parametrize("case", ["missing", "file", "empty", "no images"])
def test_folders_that_cannot_serve_are_refused_by_name(tmp_path, case):
    target = tmp_path / "target"
    said = {
        "missing": "does not exist",
        "file": "is a file",
        "empty": "is empty",
        "no images": "holds no images",
    }
    if case == "file":
        target.write_text("x")
    elif case != "missing":
        target.mkdir()
    if case == "no images":
        (target / "readme.txt").write_text("x")
    with pytest.raises(UserError) as refused:
        load(target)
    assert str(target) in str(refused.value)
    assert said[case] in str(refused.value)
    assert "png jpg jpeg webp bmp gif tif tiff ppm pgm" in str(refused.value)


def test_a_cache_that_cannot_be_written_is_named(base):
    (base.parent / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=str(base.parent / "cache")):
        load(base)
