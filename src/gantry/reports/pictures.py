"""Draws sample grids side by side, and the share of each class in generated images."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gantry.reports.curves import png
from gantry.reports.ranking import ComparableSet, Group
from gantry.reports.run import Picture

if TYPE_CHECKING:
    import PIL.Image
    from PIL.ImageFont import FreeTypeFont


GRID = 8  # images in a row of a logged grid
MOST_GROUPS = 12  # largest number of groups whose samples are shown
MOST_WITHOUT = 4  # groups without pictures that are named
LARGEST = 384  # pixels a side that a grid is cropped to, before enlargement
CELL = 240  # pixels a side, about, of a grid in samples.png
PHOTOGRAPH = 60_000  # bytes of PNG from which a grid is stored as JPEG
ROOM = 1_800_000  # bytes for all grids of a report, so that it stays below 5 MB
QUALITIES = (90, 80, 65, 50, 35)  # of JPEG, the first one that fits
SMALLEST = 96  # pixels a side to which a grid is reduced where it does not fit otherwise
MOST_NAMED = 20  # largest number of classes for which the cells of the map are labelled


@dataclass(frozen=True)
class Tile:
    """A cropped grid: the file's content and type, its width in pixels, and whether to enlarge it without smoothing."""

    content: bytes
    kind: str
    side: int
    pixelated: bool


@dataclass(frozen=True)
class Samples:
    """Grids by label and step; steps that a run did not reach are missing."""

    real: Tile | None
    tiles: dict[str, dict[int, Tile]]
    whole: bytes


def images_across(groups: int) -> int:
    """Return the number of images to show of each row and column of a grid; fewer if there are many groups."""
    return next((across for most, across in ((4, GRID), (9, 6)) if groups <= most), 4)


def crop(content: bytes, across: int, high: int | None = None) -> PIL.Image.Image:
    """Crop a logged grid to the first `across` images of the first `across` rows, without enlargement.

    Args:
        content: of the PNG file.
        across: images in a row.
        high: pixels of a cell's height with its border; None: those of its width, as of square images.

    A grid is 8 cells and a border of one pixel wide, all enlarged k times (`gantry.data.grid.enlarged_grid`). The
    file's text chunk gives k; older files have none, and there k, below 8, is the width modulo 8.
    """
    from PIL import Image

    pixels, _ = _plain(content)
    wide = pixels.shape[1] // GRID
    high = high or wide
    across = max(2, min(across, LARGEST // max(high, wide, 1)))
    return Image.fromarray(np.ascontiguousarray(pixels[: across * high + 1, : across * wide + 1]))


def _plain(content: bytes) -> tuple[np.ndarray, int]:
    """Return a logged grid without its enlargement, uint8 (H, W, 3), and the rows of its images."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as opened:
        pixels = np.asarray(opened.convert("RGB"))
        zoom, rows = (_count(opened.info.get(name)) for name in ("zoom", "rows"))
    scale = max(1, zoom or pixels.shape[1] % GRID)
    return pixels[::scale, ::scale], rows or GRID


def _count(text: object) -> int | None:
    return int(text) if isinstance(text, str) and re.fullmatch(r"\d{1,3}", text, re.ASCII) else None


def samples(one: ComparableSet, steps: Sequence[int], room: int = ROOM) -> Samples | None:
    """Return the grids of the first seed of each group at `steps`, and real images; None without any grid.

    Args:
        room: bytes for the files of all grids; the more there are, the more they are compressed.
    """
    groups = _with_grids(one, steps)[:MOST_GROUPS]
    if not groups:
        return None
    across = images_across(len(groups))
    contents = {
        group.label: {step: picture() for step, picture in _grids(group).items() if step in steps} for group in groups
    }
    # Samples fill all rows of their grid; of few real images there are fewer rows.
    pixels, rows = _plain(next(content for row in contents.values() for content in row.values()))
    high = pixels.shape[0] // max(1, rows)
    grids = {
        label: {step: crop(content, across, high) for step, content in row.items()} for label, row in contents.items()
    }
    shown = next((run.real for group in groups for run in group.shown if run.real is not None), None)
    real = crop(shown(), across, high) if shown is not None else None
    whole = _sheet(real, grids, steps)
    most = room // (1 + sum(map(len, grids.values())))
    tiles = {label: {step: tile(image, most) for step, image in row.items()} for label, row in grids.items()}
    return Samples(tile(real, most) if real is not None else None, tiles, whole)


def has(one: ComparableSet, step: int) -> bool:
    """Return True where a group of the set has a grid of that step."""
    return bool(_with_grids(one, [step]))


def left_out(one: ComparableSet, steps: Sequence[int]) -> str:
    """Return a sentence that says how many groups have no grid in the report, and why; empty where all have one."""
    there = _with_grids(one, steps)
    without, more = [group.label for group in one.groups if group not in there], len(there) - MOST_GROUPS
    parts = [f"the {MOST_GROUPS} best are shown, {more} are not"] if more > 0 else []
    if without:
        named = ", ".join([*without[:MOST_WITHOUT], *(["others"] if len(without) > MOST_WITHOUT else [])])
        parts.append(f"none of {named}, whose folders hold no picture of these steps")
    return "; ".join(parts)


def _with_grids(one: ComparableSet, steps: Sequence[int]) -> list[Group]:
    return [group for group in one.groups if any(step in _grids(group) for step in steps)]


def _grids(group: Group) -> dict[int, Picture]:
    return dict(group.shown[0].samples) if group.shown else {}


def _grey(image: PIL.Image.Image) -> PIL.Image.Image:
    red, green, blue = image.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else image


def tile(image: PIL.Image.Image, most: int = PHOTOGRAPH) -> Tile:
    """Encode a grid: as PNG where that has at most `most` bytes, else as JPEG, reduced where even that has more."""
    image, side = _grey(image), image.width
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    kind = "png"
    for quality in QUALITIES:
        if buffer.tell() <= min(most, PHOTOGRAPH if kind == "png" else most):
            break
        kind, buffer = "jpeg", io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
    while buffer.tell() > most and image.width > SMALLEST:
        image, buffer = image.reduce(2), io.BytesIO()
        image.save(buffer, "JPEG", quality=QUALITIES[-1])
    return Tile(buffer.getvalue(), kind, side, pixelated=side < LARGEST)


def _sheet(real: PIL.Image.Image | None, grids: dict[str, dict[int, PIL.Image.Image]], steps: Sequence[int]) -> bytes:
    """Return one PNG: a row for each group, a column for each step, real images on the left."""
    from PIL import Image, ImageDraw

    any_grid = next(image for row in grids.values() for image in row.values())
    scale = max(1, round(CELL / max(any_grid.size)))
    side, gap, line = any_grid.width * scale, 12, 24
    columns: list[int | None] = [*([None] if real is not None else []), *steps]
    width = gap + len(columns) * (side + gap)
    below = line + any_grid.height * scale + gap  # from one row to the next
    height = gap + line + len(grids) * below
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), _font(14)
    for column, step in enumerate(columns):
        name = "real" if step is None else f"step {step:,}"
        pen.text((gap + column * (side + gap), gap), name, fill="#555555", font=font)
    for row, (label, images) in enumerate(grids.items()):
        top = gap + line + row * below
        pen.text((gap, top), _fitted(label, font, width - 2 * gap), fill="black", font=font)
        for column, step in enumerate(columns):
            image = real if step is None else images.get(step)
            if image is not None:
                large = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
                sheet.paste(large, (gap + column * (side + gap), top + line))
    buffer = io.BytesIO()
    _grey(sheet).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _font(size: int) -> FreeTypeFont:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _fitted(text: str, font: FreeTypeFont, width: float) -> str:
    text = " ".join(text.split())
    while font.getlength(text) > width:
        text = text[:-2] + "…"
    return text


def shares(one: ComparableSet) -> tuple[list[str], list[Group], np.ndarray, np.ndarray] | None:
    """Return the class shares: classes, groups, real shares (c,), generated shares (groups, c).

    Means over seeds, from 0 to 1, of the last measurement; None where no classes are known.
    """
    groups = [group for group in one.groups if any(run.classes for run in group.shown)]
    if not groups:
        return None
    runs = [[run for run in group.shown if run.classes] for group in groups]
    names = list(runs[0][0].classes)
    pairs = [np.mean([[run.classes.get(name, (0.0, 0.0)) for name in names] for run in some], axis=0) for some in runs]
    return names, groups, pairs[0][:, 0], np.array([pair[:, 1] for pair in pairs])


def coverage(one: ComparableSet) -> bytes | None:
    """Draw each class's generated share over its real share, a row for each group; None where no classes are known."""
    found = shares(one)
    if found is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names, groups, real, generated = found
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(real > 0, generated / real, np.nan)
        colour = np.clip(np.log2(ratio), -2, 2)
    named = len(names) <= MOST_NAMED
    labels = [group.label if len(group.label) <= 36 else group.label[:35] + "…" for group in groups]
    cell = 0.5 if named else 0.2
    left, below = 0.3 + 0.075 * max(map(len, labels)), 0.3 + (0.0 if named else 0.075 * min(14, max(map(len, names))))
    width, height = left + cell * len(names) + 0.9, below + 0.34 * len(groups) + 0.4
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    box = (left / width, below / height, cell * len(names) / width, 0.34 * len(groups) / height)
    axes = figure.add_axes(box)
    axes.set_facecolor("#DDDDDD")
    shown = axes.imshow(colour, cmap="PuOr", vmin=-2, vmax=2, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(groups)), labels, fontsize=8, parse_math=False)
    ticks = [name if len(name) <= 14 else name[:13] + "…" for name in names]
    turned = named is False or max(map(len, ticks)) > 6
    axes.set_xticks(range(len(names)), ticks, fontsize=8 if named else 6.5, parse_math=False)
    axes.tick_params(length=0)
    for tick in axes.get_xticklabels():
        tick.set_rotation(90 if not named else 30 if turned else 0)
    if named:
        for row, column in np.ndindex(ratio.shape):
            value = ratio[row, column]
            text = "—" if np.isnan(value) else f"{value:.2f}" if value < 9.95 else f"{value:.0f}"
            dark = abs(colour[row, column]) > 1.3
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "#222222")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("generated share / real share of each class", fontsize=8.5, loc="left", color="#222222")
    bar = figure.colorbar(shown, cax=figure.add_axes((1 - 0.75 / width, box[1], 0.12 / width, box[3])))
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["≤ ¼", "½", "1", "2", "≥ 4"], fontsize=7.5)
    bar.outline.set_visible(False)
    canvas.draw()
    return png(np.asarray(canvas.buffer_rgba())[..., :3])
