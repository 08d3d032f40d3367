"""Draws the curves of every metric, one panel each, without pyplot's windows and global state."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gantry.reports.ranking import ComparableSet, Group
from gantry.reports.run import Run, direction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette for colour-blind readers, without the yellow, which is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ON_DARK = ("#3D96E8", "#F07B36", "#1FBE8F", "#DE95C2", "#F0B440", "#A3DCFF", "#E8E6E0")  # the same, on a dark page
OTHERS, OTHERS_ON_DARK = "#BBBBBB", "#5E5D58"
AXES = {"steps": "generator steps", "images": "real images seen", "seconds": "training time"}
COLUMNS = 3
PANEL = (4.1, 2.8)  # inches
MARGIN = (0.72, 0.5, 0.15, 0.42)  # left, bottom, right, top of a panel, inches
LEGEND_LINE, LEGEND_GAP = 0.18, 0.15  # inches
DPI = 130
LOG_SPAN = 30  # ratio of the largest to the smallest value, from which a metric gets a logarithmic axis
FEW = 12  # curves of at most so many points have markers
MARKER = 2.6  # points


@dataclass(frozen=True)
class Style:
    """The line style of a group in all figures."""

    colour: str
    dashed: bool

    @property
    def on_dark(self) -> str:
        """Return its colour on a dark page."""
        return dict(zip(COLOURS, ON_DARK, strict=True)).get(self.colour, OTHERS_ON_DARK)


GREY = Style(OTHERS, False)  # of the groups beyond the colours


def palette(groups: Sequence[Group]) -> dict[str, Style]:
    """Return a style for each label, in order: seven colours, then the same ones dashed, then grey."""
    labels = list(dict.fromkeys(group.label for group in groups))
    styles = [Style(colour, dashed) for dashed in (False, True) for colour in COLOURS]
    return {label: styles[i] if i < len(styles) else GREY for i, label in enumerate(labels)}


@dataclass(frozen=True)
class Curves:
    """A figure over one x axis: the PNG of all panels with the legend, its pixels, and each panel's corner by name."""

    whole: bytes
    pixels: np.ndarray
    corners: dict[str, tuple[float, float]]

    @property
    def panels(self) -> dict[str, bytes]:
        """Return a PNG of each panel by metric; encoding them takes as long as drawing."""
        return {metric: png(_cut(self.pixels, corner)) for metric, corner in self.corners.items()}


@dataclass(frozen=True)
class Band:
    """A group's curve: x (n,), and over its seeds the mean, least and largest value (n,) each."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(runs: Sequence[Run], metric: str, axis: str) -> Band | None:
    """Return the curve of `metric` over `axis` (a key of `AXES`) at the steps that all runs with such a curve share.

    None where there are none, or `axis` was not recorded. On `images` and `seconds`, x is the mean over the runs.
    """
    curves = [(run, run.curves[metric]) for run in runs if metric in run.curves]
    steps = sorted(set.intersection(*(set(curve) for _, curve in curves))) if curves else []
    if not steps:
        return None
    x = np.mean([positions(run, steps, axis) for run, _ in curves], axis=0)
    values = np.array([[curve[step] for step in steps] for _, curve in curves], dtype=float)
    values[~np.isfinite(values)] = np.nan
    there = np.isfinite(x)
    if not there.any():
        return None
    # Where one seed has diverged the mean is NaN and the curve ends.
    return Band(*(part[there] for part in (x, values.mean(0), values.min(0), values.max(0))))


def positions(run: Run, steps: Sequence[int], axis: str) -> np.ndarray:
    """Return the positions of `steps` on an axis of `run` (a key of `AXES`); NaN where that was not recorded."""
    if axis == "steps":
        return np.array(steps, dtype=float)
    recorded = {0: 0.0} | run.curves.get("images_seen" if axis == "images" else "training_seconds", {})
    if len(recorded) == 1:
        return np.full(len(steps), np.nan)
    return np.interp(steps, list(recorded), list(recorded.values()), right=np.nan)


def draw(one: ComparableSet, styles: dict[str, Style]) -> dict[str, Curves]:
    """Draw the curves of a set over each axis that was recorded; returns them by axis."""
    metrics = list(dict.fromkeys(name for group in one.groups for run in group.shown for name in run.drawn))
    drawn = {}
    for axis in AXES:
        bands = {
            metric: [(group, curve) for group in one.groups if (curve := band(group.shown, metric, axis)) is not None]
            for metric in metrics
        }
        bands = {metric: curves for metric, curves in bands.items() if curves}
        if bands:
            drawn[axis] = _figure(bands, axis, one, styles)
    return drawn


def _figure(
    bands: dict[str, list[tuple[Group, Band]]], axis: str, one: ComparableSet, styles: dict[str, Style]
) -> Curves:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = math.ceil(len(bands) / COLUMNS), min(COLUMNS, len(bands))
    entries = [group for group in one.groups if styles[group.label].colour != OTHERS]
    grey = len(one.groups) - len(entries)
    legend = LEGEND_GAP + LEGEND_LINE * math.ceil((len(entries) + (grey > 0)) / columns)
    width, height = columns * PANEL[0], rows * PANEL[1] + legend
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    left, bottom, right, top = MARGIN
    unit, divisor = _time_unit(bands) if axis == "seconds" else ("", 1.0)
    corners = {}
    for number, (metric, curves) in enumerate(bands.items()):
        x = (number % columns) * PANEL[0]
        y = (rows - 1 - number // columns) * PANEL[1]
        corners[metric] = (x, y)
        size = (PANEL[0] - left - right, PANEL[1] - bottom - top)
        box = ((x + left) / width, (y + bottom) / height, size[0] / width, size[1] / height)
        axes = figure.add_axes(box)
        _panel(axes, metric, curves, styles, divisor)
        axes.set_xlabel(AXES[axis] + unit, fontsize=8, color="#444444")
        _ticks(axes, axis)
    _legend(figure, entries, grey, styles, columns)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return Curves(png(pixels), pixels, corners)


def _panel(axes: Axes, metric: str, curves: list[tuple[Group, Band]], styles: dict[str, Style], divisor: float) -> None:
    named = [(group, curve, styles[group.label]) for group, curve in curves if styles[group.label].colour != OTHERS]
    _others(axes, [(group, curve) for group, curve in curves if styles[group.label].colour == OTHERS], divisor)
    for place, (group, curve, style) in reversed(list(enumerate(named))):  # the best on top
        x = curve.x / divisor
        axes.plot(
            x,
            curve.mean,
            color=style.colour,
            linestyle=_line(group, style),
            linewidth=1.5,
            marker=_marker(curve),
            markersize=MARKER,
            zorder=3 - place / 1000,
        )
        axes.fill_between(x, curve.low, curve.high, color=style.colour, alpha=0.16, linewidth=0)
        finite = np.isfinite(curve.mean)
        if not finite.all() and finite.any():
            last = np.flatnonzero(finite)[-1]
            axes.plot(x[last], curve.mean[last], "x", color=style.colour, markersize=6, markeredgewidth=1.6, zorder=4)
    higher = direction(metric, [run for group, _ in curves for run in group.shown])
    _scale(axes, metric, higher is False, [curve for _, curve in curves])
    arrow = {True: "  (higher is better)", False: "  (lower is better)", None: ""}[higher]
    axes.set_title(metric + arrow, fontsize=8.5, loc="left", color="#222222", parse_math=False)
    axes.grid(color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7.5, color="#999999", labelcolor="#444444")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#999999")


def _others(axes: Axes, grey: list[tuple[Group, Band]], divisor: float) -> None:
    """Draw the grey curves below the others, those of one style in a single call, since each call is slow."""
    strokes: dict[tuple[Any, str | None], list[Band]] = {}
    for group, curve in grey:
        strokes.setdefault((_line(group, GREY), _marker(curve)), []).append(curve)
    for (line, marker), curves in strokes.items():
        # A NaN separates one curve from the next.
        x, y = (
            np.concatenate([np.append(values, np.nan) for values in axis])
            for axis in zip(*((curve.x / divisor, curve.mean) for curve in curves), strict=True)
        )
        axes.plot(x, y, color=OTHERS, linestyle=line, linewidth=0.8, marker=marker, markersize=MARKER, zorder=2)
        ends = [np.flatnonzero(np.isfinite(curve.mean)) for curve in curves]
        cut = [(curve, end[-1]) for curve, end in zip(curves, ends, strict=True) if 0 < len(end) < len(curve.mean)]
        if cut:
            crosses = ([curve.x[last] / divisor for curve, last in cut], [curve.mean[last] for curve, last in cut])
            axes.plot(*crosses, "x", color=OTHERS, markersize=6, markeredgewidth=1.6, zorder=2)


def _line(group: Group, style: Style) -> Any:
    """Return the line style: dotted for a group without finished runs, dashed where its colour is used twice."""
    return (0, (1, 1.2)) if not group.finished else (0, (5, 1.6)) if style.dashed else "-"


def _marker(curve: Band) -> str | None:
    return "o" if len(curve.x) <= FEW else None


def scale(metric: str, distance: bool, curves: Sequence[Band]) -> str:
    """Return `log` where a distance spans a wide range, `symlog` where losses differ by orders of magnitude, `linear`.

    Args:
        distance: whether lower values of `metric` are better.
    """
    finite = [curve.mean[np.isfinite(curve.mean)] for curve in curves]
    largest = [float(np.abs(values).max()) for values in finite if len(values)]
    if distance:
        values = np.concatenate(finite)
        wide = bool(len(values) and values.min() > 0 and values.max() > LOG_SPAN * values.min())
        return "log" if wide else "linear"
    differ = bool(largest) and max(largest) > max(100.0, LOG_SPAN * min(largest))
    return "symlog" if differ and metric.startswith(("loss/", "score/")) else "linear"


def _scale(axes: Axes, metric: str, distance: bool, curves: list[Band]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    chosen = scale(metric, distance, curves)
    if chosen == "log":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    elif chosen == "symlog":
        axes.set_yscale("symlog", linthresh=1.0)


def _ticks(axes: Axes, axis: str) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=axis != "seconds"))
    if axis == "images":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    elif axis == "steps":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _time_unit(bands: dict[str, list[tuple[Group, Band]]]) -> tuple[str, float]:
    longest = max(curve.x.max() for curves in bands.values() for _, curve in curves)
    units = [(" (hours)", 3600.0), (" (minutes)", 60.0)]
    return next(((name, size) for name, size in units if longest > 3 * size), (" (seconds)", 1.0))


def _legend(figure: Figure, entries: list[Group], grey: int, styles: dict[str, Style], columns: int) -> None:
    from matplotlib.lines import Line2D

    names = [group.label + ("" if group.finished else f" ({group.shown[0].status.lower()})") for group in entries]
    lines = [Line2D([], [], color=styles[group.label].colour, linewidth=2) for group in entries]
    for line, group in zip(lines, entries, strict=True):
        if not group.finished:
            line.set_linestyle((0, (1, 1.2)))
        elif styles[group.label].dashed:
            line.set_linestyle((0, (5, 1.6)))
    if grey:
        names.append(f"{grey} others")
        lines.append(Line2D([], [], color=OTHERS, linewidth=1))
    # The texts are set afterwards: legend() parses a $ as mathematics and drops names with a leading underscore.
    legend = figure.legend(lines, ["name"] * len(lines), loc="upper left", ncols=columns, frameon=False, fontsize=8.5)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name if len(name) <= 48 else name[:47] + "…")


def _cut(pixels: np.ndarray, corner: tuple[float, float]) -> np.ndarray:
    """Return the pixels of the panel whose lower left corner is at `corner`, in inches."""
    x, y = round(corner[0] * DPI), round(corner[1] * DPI)
    wide, high = round(PANEL[0] * DPI), round(PANEL[1] * DPI)
    below = len(pixels) - y
    return pixels[below - high : below, x : x + wide]


def png(pixels: np.ndarray) -> bytes:
    """Encode a drawing, uint8 (height, width, 3), as PNG with `COLOURS` and its commonest colours, 256 in all.

    The palette halves the size of the file.
    """
    from PIL import Image

    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
    rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(np.int32)
    ours = np.isin(colours, [int(colour[1:], 16) for colour in COLOURS])
    chosen = np.argsort(-(counts + ours * pixels.size), kind="stable")[:256]
    nearest = np.array([np.abs(rgb[chosen] - colour).sum(1).argmin() for colour in rgb], np.uint8)
    image = Image.fromarray(nearest[places].reshape(pixels.shape[:2]), "L")
    image.putpalette(rgb[chosen].astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
