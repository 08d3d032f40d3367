"""Writes animations: GIF, WebP, MP4, or a strip of all frames as PNG."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image

from gantry.core.errors import UserError

SUFFIXES = {".gif": "GIF", ".webp": "WebP", ".mp4": "H.264 video", ".png": "a strip of all frames"}
FASTEST = {".gif": 50, ".webp": 1000, ".mp4": 120}  # frames a second; browsers slow down a GIF that asks for more
COLOURS = 256  # of a GIF
GREYS = np.arange(COLOURS, dtype=np.uint8)[:, None].repeat(3, 1)
SAMPLED = 2**18  # number of pixels of all frames from which the palette is chosen
ROW = 8  # least number of frames in a row of a strip
ENCODERS = ("libx264", "libopenh264")


def check_suffix(path: Path) -> None:
    """Refuse a format that `save_animation` cannot write, before anything is generated.

    Raises:
        UserError: another suffix, or .mp4 where PyAV or its H.264 encoder is missing.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        choices = ", ".join(f"{suffix} ({what})" for suffix, what in SUFFIXES.items())
        raise UserError(f"{path}: no animation is written as {kind or 'a file without a suffix'}; choose {choices}")
    if kind == ".mp4":
        _encoder(path)


def save_animation(
    frames: Iterable[np.ndarray],
    path: Path,
    fps: float,
    hold: float = 0.0,
    on_frame: Callable[[], object] = lambda: None,
) -> None:
    """Write frames in order, in the format of the suffix of `path`; the file is written atomically.

    A GIF has the same 256 colours throughout, chosen from all its frames so that none flickers, and exact levels
    where all frames are grey; it and a WebP repeat for ever. A video of odd width or height is padded by its edge. A
    frame equal to the one before it may be stored as that one, shown for longer. A PNG is all frames in rows.

    Memory holds a byte a pixel of all frames for a GIF, a few frames for a video, all frames for the others.

    Args:
        frames: uint8 (H, W, 3), at least one, all of one size; taken one at a time.
        path: ends in one of `SUFFIXES`; its folder is made.
        fps: frames a second, above 0; more than `FASTEST` are shown as many.
        hold: seconds that the last frame is shown longer than the others.
        on_frame: called after each frame.

    Raises:
        UserError: see `check_suffix`.
        ValueError: there are no frames.
        OSError: the file cannot be written.
    """
    check_suffix(path)
    kind = path.suffix.lower()
    rate = min(fps, FASTEST.get(kind, math.inf))
    taken = _checked(frames, on_frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if kind == ".mp4":
            _save_video(taken, part, rate, hold, _encoder(path))
        elif kind == ".gif":
            _save_gif(taken, part, rate, hold)
        elif kind == ".webp":
            pictures = [Image.fromarray(frame) for frame in taken]
            _save_all(pictures, part, _durations(len(pictures), rate, hold, 1), format="WEBP", quality=85, method=4)
        else:
            Image.fromarray(_strip(list(taken))).save(part, format="PNG")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _checked(frames: Iterable[np.ndarray], on_frame: Callable[[], object]) -> Iterator[np.ndarray]:
    """Yield the frames, contiguous in memory, at least one; calls `on_frame` after each has been used."""
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("an animation of no frames")
    for frame in itertools.chain([first], frames):
        yield np.ascontiguousarray(frame)
        on_frame()


def _durations(count: int, fps: float, hold: float, unit: int) -> list[int]:
    """Return the duration of each frame in ms, rounded to whole units such that the sum is exact."""
    ends = [round(1000 / unit * number / fps) for number in range(count + 1)]
    shown = [unit * (end - begin) for begin, end in itertools.pairwise(ends)]
    shown[-1] += unit * round(1000 / unit * hold)
    return shown


def _save_all(pictures: Iterable[Image.Image], path: Path, durations: list[int], **options: Any) -> None:
    first, *others = pictures
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, **options)


def _save_gif(frames: Iterable[np.ndarray], path: Path, fps: float, hold: float) -> None:
    with tempfile.TemporaryFile() as spool:  # the palette is known only after the last frame
        sample, count, shape = _spooled(frames, spool)
        palette = GREYS if sample is None else _palette(sample)
        nearest = None if sample is None else _nearest(palette)
        spool.seek(0)
        pictures = []
        for _ in range(count):
            frame = np.frombuffer(spool.read(math.prod(shape)), np.uint8).reshape(shape)
            red, green, blue = np.moveaxis(frame, -1, 0)
            numbers = red if nearest is None else nearest[red >> 2, green >> 2, blue >> 2]
            picture = Image.frombytes("P", numbers.shape[::-1], numbers.tobytes())
            picture.putpalette(palette.tobytes())
            pictures.append(picture)
    _save_all(pictures, path, _durations(count, fps, hold, 10), format="GIF", optimize=False)


def _spooled(frames: Iterable[np.ndarray], spool: BinaryIO) -> tuple[np.ndarray | None, int, tuple[int, ...]]:
    """Write frames to a file; returns pixels of all of them (N, 3), None if all are grey, their number and shape."""
    grey, count, shape = True, 0, (0, 0, 3)
    kept: list[np.ndarray] = []
    every = 1  # one in so many pixels is kept
    for frame in frames:
        spool.write(frame.data)
        count, shape = count + 1, frame.shape
        grey = grey and bool((frame == frame[..., :1]).all())
        kept.append(frame.reshape(-1, 3)[::every])
        while sum(map(len, kept)) > SAMPLED:
            every *= 2
            kept = [pixels[::2] for pixels in kept]
    return None if grey else np.concatenate(kept), count, shape


def _palette(pixels: np.ndarray) -> np.ndarray:
    """Choose at most 256 colours, uint8 (N, 3), for pixels (N, 3)."""
    reduced = Image.fromarray(pixels[None]).quantize(COLOURS, Image.Quantize.MEDIANCUT)
    return np.array(reduced.getpalette(), np.uint8).reshape(-1, 3)


def _nearest(palette: np.ndarray) -> np.ndarray:
    """Return the index of the nearest palette colour for each colour of six bits a channel: (64, 64, 64).

    Dithering would look finer but flicker.
    """
    from scipy.spatial import KDTree  # slow to import, and needed only at the end of a run

    levels = np.arange(2, 256, 4)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    return KDTree(palette.astype(np.float64)).query(colours)[1].astype(np.uint8)


def _strip(frames: list[np.ndarray]) -> np.ndarray:
    """Arrange all frames in one picture: one row, or as many rows as make it about square."""
    columns = min(len(frames), max(ROW, math.isqrt(len(frames) - 1) + 1))
    blank = [np.full_like(frames[0], 255)] * (-len(frames) % columns)
    height, width, channels = frames[0].shape
    rows = np.stack([*frames, *blank]).reshape(-1, columns, height, width, channels)
    return rows.swapaxes(1, 2).reshape(-1, columns * width, channels)


def _encoder(path: Path) -> str:
    """Return the name of an H.264 encoder that PyAV has."""
    others = ", ".join(suffix for suffix in SUFFIXES if suffix != path.suffix.lower())
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"{path}: video is written by PyAV, which is not installed; pip install -c constraints.txt -e '.[video]' "
            f"does it, or choose one of {others}"
        ) from error
    available = [name for name in ENCODERS if name in av.codecs_available]
    if not available:
        raise UserError(f"{path}: PyAV has no H.264 encoder here ({' or '.join(ENCODERS)}); choose one of {others}")
    return available[0]


def _save_video(frames: Iterable[np.ndarray], path: Path, fps: float, hold: float, encoder: str) -> None:
    import av

    frames = iter(frames)
    first = next(frames)
    height, width = (size + size % 2 for size in first.shape[:2])  # yuv420p halves both for colour
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = cast("av.VideoStream", container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001)))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if encoder == "libx264":
            stream.options = {"crf": "18"}
        last = first
        for frame in itertools.chain([first], frames):
            last = np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(last, format="rgb24")))
        for _ in range(round(hold * fps)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(last, format="rgb24")))
        container.mux(stream.encode(None))
