"""Animations, read back as what they were written as."""

import sys
import tracemalloc

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from gantry.core.errors import UserError
from gantry.generation.animation import check_suffix, save_animation


def greys(count, size=(16, 16)):
    """All 256 levels, moving."""
    levels = np.arange(256, dtype=np.uint8).reshape(size)
    return [np.roll(levels, number, axis=1)[..., None].repeat(3, 2) for number in range(count)]


def flats(*colours, size=(15, 21)):
    return [np.full((*size, 3), colour, np.uint8) for colour in colours]


def read(path):
    """The frames (N, H, W, 3) of a file of Pillow's, how long each is shown in ms, and how often all repeat."""
    frames, shown = [], []
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert("RGB")))
            shown.append(frame.info["duration"])
        return np.stack(frames), shown, image.info.get("loop")


def video(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(frames), stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate


def test_a_gif_of_greys_is_exact_repeats_for_ever_and_holds_its_last_frame(tmp_path):
    taken = []
    save_animation(iter(greys(9)), tmp_path / "new" / "walk.gif", fps=30, hold=1.5, on_frame=lambda: taken.append(1))
    frames, shown, loop = read(tmp_path / "new" / "walk.gif")
    assert np.array_equal(frames, np.stack(greys(9)))
    assert sum(shown) == 1800
    assert set(shown[:-1]) <= {30, 40}
    assert loop == 0
    assert len(taken) == 9
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["walk.gif"]


def test_the_colours_of_a_gif_are_those_of_all_its_frames_and_stay(tmp_path):
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (200, 200, 20), (90, 90, 90)]
    still = np.random.default_rng(0).integers(0, 256, (20, 21, 3), dtype=np.uint8)
    made = [np.concatenate([frame, still]) for frame in flats(*colours)]
    save_animation(made, tmp_path / "walk.gif", fps=10)
    frames = read(tmp_path / "walk.gif")[0].astype(int)
    for frame, colour in zip(frames, colours, strict=True):
        assert np.abs(frame[:15] - colour).max() <= 12
    assert all(np.array_equal(frame[15:], frames[0][15:]) for frame in frames)  # what does not move does not flicker
    assert np.abs(frames[0][15:] - still).mean() < 24


def test_a_webp_has_all_frames_for_their_time(tmp_path):
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    save_animation(flats(*colours), tmp_path / "walk.WEBP", fps=30, hold=0.5)
    frames, shown, loop = read(tmp_path / "walk.WEBP")
    assert np.abs(frames.astype(int) - np.stack(flats(*colours))).max() <= 8
    assert (sum(shown), loop) == (600, 0)


def test_a_video_plays_everywhere_and_holds_its_last_frame(tmp_path):
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    save_animation(flats(*colours), tmp_path / "walk.mp4", fps=12.5, hold=0.4)
    frames, codec, pixels, rate = video(tmp_path / "walk.mp4")
    assert (codec, pixels, float(rate)) == ("h264", "yuv420p", 12.5)
    assert frames.shape == (3 + 5, 16, 22, 3)  # even
    assert np.abs(frames[[0, 1, 2, -1]].astype(int) - np.stack(flats(*colours, colours[-1], size=(16, 22)))).max() <= 16


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (8, 1, 8), (11, 2, 8), (100, 10, 10)])
def test_a_strip_shows_all_frames_in_order(tmp_path, count, rows, columns):
    made = flats(*((number, 0, 255 - number) for number in range(count)), size=(4, 6))
    save_animation(made, tmp_path / "walk.png", fps=12)
    strip = np.asarray(Image.open(tmp_path / "walk.png"))
    assert strip.shape == (rows * 4, columns * 6, 3)
    tiles = strip.reshape(rows, 4, columns, 6, 3).swapaxes(1, 2).reshape(-1, 4, 6, 3)
    assert np.array_equal(tiles[:count], np.stack(made))
    assert (tiles[count:] == 255).all()


def test_another_suffix_is_refused_with_the_choices(tmp_path):
    with pytest.raises(UserError, match=r"\.avi.*\.gif.*\.webp.*\.mp4.*\.png"):
        check_suffix(tmp_path / "walk.avi")


@pytest.mark.parametrize("missing", ["PyAV", "its encoder"])
def test_where_video_cannot_be_written_nothing_is_generated(tmp_path, monkeypatch, missing):
    if missing == "PyAV":
        monkeypatch.setitem(sys.modules, "av", None)
    else:
        monkeypatch.setattr(av, "codecs_available", {"mpeg4"})

    def never():
        raise AssertionError("generated in vain")
        yield

    with pytest.raises(UserError, match=r"\.gif, \.webp, \.png") as error:
        save_animation(never(), tmp_path / "walk.mp4", fps=12)
    assert ("pip install -c constraints.txt -e '.[video]'" in str(error.value)) == (missing == "PyAV")


@pytest.mark.parametrize("suffix", ["gif", "webp", "mp4", "png"])
def test_where_generating_fails_what_was_there_stays(tmp_path, suffix):
    def broken():
        yield from flats(1, 2)
        raise KeyError("no third")

    path = tmp_path / f"walk.{suffix}"
    path.write_text("earlier")
    with pytest.raises(KeyError, match="no third"):
        save_animation(broken(), path, fps=12)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "earlier"


def test_a_long_video_is_written_as_it_comes(tmp_path):
    frames = (np.full((128, 128, 3), number % 256, np.uint8) for number in range(200))
    tracemalloc.start()
    save_animation(frames, tmp_path / "walk.mp4", fps=60)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(video(tmp_path / "walk.mp4")[0]) == 200
    assert peak < 20 * 128 * 128 * 3
