"""Collects the curves that the report's page draws by itself with BokehJS, and packs them together with it."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gantry.reports.curves import AXES, FEW, GREY, Band, Style, band, positions, scale
from gantry.reports.ranking import ComparableSet, Group
from gantry.reports.run import direction

LIBRARY = ("bokeh.min.js", "bokeh-api.min.js")
MOST_POINTS = 200  # of a curve: more than a panel has room for
ALL_POINTS = 24_000  # of all curves of a report, about 30 bytes of the file each
FEWEST_POINTS = 20
DIGITS = 5  # significant ones of a value


def library() -> str:
    """Return the JavaScript of the installed Bokeh, read without importing its Python."""
    found = importlib.util.find_spec("bokeh")
    assert found is not None  # it is a dependency
    assert found.origin is not None
    folder = Path(found.origin).parent / "server" / "static" / "js"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in LIBRARY)


def charts(sets: Sequence[tuple[ComparableSet, dict[str, Style]]]) -> list[dict[str, Any]]:
    """Return the curves of each set as plain values, of which `report.js` says how they are drawn.

    Every group of a set is listed, the best first. A curve has its mean over the seeds, the least and the largest
    value where there are several seeds, and its positions on each axis that was recorded; None where a value is not
    finite. Long curves are thinned evenly, to fewer points the more curves there are.
    """
    bands = [_bands(one) for one, _ in sets]
    count = sum(len(curves) for by_metric in bands for curves in by_metric.values())
    most = max(FEWEST_POINTS, min(MOST_POINTS, ALL_POINTS // max(1, count)))
    return [
        {
            "axes": {axis: name for axis, name in AXES.items() if _recorded(by_metric, axis)},
            "groups": [_group(group, styles[group.label]) for group in one.groups],
            "panels": [_panel(one, metric, curves, most) for metric, curves in by_metric.items()],
        }
        for (one, styles), by_metric in zip(sets, bands, strict=True)
    ]


def packed(sections: Sequence[dict[str, Any]]) -> str:
    """Return the library and the curves as base64 of gzip of JSON, a third of their size; empty without a curve."""
    if not any(section["panels"] for section in sections):
        return ""
    text = json.dumps({"library": library(), "sections": list(sections)}, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _bands(one: ComparableSet) -> dict[str, list[tuple[Group, Band]]]:
    metrics = list(dict.fromkeys(name for group in one.groups for run in group.shown for name in run.drawn))
    found = {
        metric: [(group, curve) for group in one.groups if (curve := band(group.shown, metric, "steps")) is not None]
        for metric in metrics
    }
    return {metric: curves for metric, curves in found.items() if curves}


def _recorded(by_metric: dict[str, list[tuple[Group, Band]]], axis: str) -> bool:
    return any(
        _values(_along(group, metric, curve.x, axis)) for metric, curves in by_metric.items() for group, curve in curves
    )


def _group(group: Group, style: Style) -> dict[str, Any]:
    return {
        "label": group.label,
        "colours": [style.colour, style.on_dark],
        "others": style == GREY,
        "dash": "dotted" if not group.finished else "dashed" if style.dashed else "solid",
    }


def _panel(one: ComparableSet, metric: str, curves: list[tuple[Group, Band]], most: int) -> dict[str, Any]:
    higher = direction(metric, [run for group, _ in curves for run in group.shown])
    return {
        "metric": metric,
        "better": {True: "higher", False: "lower", None: None}[higher],
        "scale": scale(metric, higher is False, [curve for _, curve in curves]),
        "marked": all(len(curve.x) <= FEW for _, curve in curves),
        "curves": [_curve(one.groups.index(group), group, metric, curve, most) for group, curve in curves],
    }


def _curve(number: int, group: Group, metric: str, curve: Band, most: int) -> dict[str, Any]:
    kept = _kept(curve.mean, most)
    single = np.array_equal(curve.low, curve.high, equal_nan=True)
    return {
        "group": number,
        "x": {axis: _values(_along(group, metric, curve.x[kept], axis)) for axis in AXES},
        "mean": _values(curve.mean[kept]),
        "low": None if single else _values(curve.low[kept]),
        "high": None if single else _values(curve.high[kept]),
    }


def _kept(mean: np.ndarray, most: int) -> np.ndarray:
    """Return the places of at most about `most` points, among them the first, the last and the last finite one."""
    kept = np.linspace(0, len(mean) - 1, min(most, len(mean))).round().astype(int)
    return np.unique(np.append(kept, np.flatnonzero(np.isfinite(mean))[-1:]))


def _along(group: Group, metric: str, steps: np.ndarray, axis: str) -> np.ndarray:
    """Return the positions of `steps` on an axis, the mean over the runs of the curve; NaN where not recorded."""
    runs = [run for run in group.shown if metric in run.curves]
    return np.mean([positions(run, [int(step) for step in steps], axis) for run in runs], axis=0)


def _values(numbers: np.ndarray) -> list[float | int | None]:
    """Return numbers for JSON; empty where none is finite."""
    rounded = [_rounded(float(number)) for number in numbers]
    return rounded if any(number is not None for number in rounded) else []


def _rounded(number: float) -> float | int | None:
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.{DIGITS}g}")
