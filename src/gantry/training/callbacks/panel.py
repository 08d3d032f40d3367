"""Shows the state of a run in a few lines below its progress bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from gantry.core.text import show
from gantry.runs.folder import SAMPLES, picture

BLOCKS = "▁▂▃▄▅▆▇█"  # of a drawn curve, low to high
SHOWN = 16  # measurements in it, the last ones
STYLES = {"better": "green", "worse": "yellow", "not finite": "bold red"}
# What is shown of the logged values: a head, and by name the words before each value.
GROUPS = {
    "loss": {"loss/discriminator": "D", "loss/generator": "G"},
    "D's score": {"score/real": "real", "score/fake": "fake"},
}
SPEED = "images_per_second"


@dataclass
class State:
    """What is known of a run.

    Attributes:
        metric: the name of the first metric.
        higher: whether a higher value of it is better.
        folder: the run's folder.
        values: what was logged last, by name; see `gantry.training.callbacks.logging`.
        measured: the metric's values by the step at which it was measured, in order.
        drawn_at: the step of the last sample grid; None before the first one.
    """

    metric: str
    higher: bool
    folder: Path
    values: Mapping[str, float] = field(default_factory=dict)
    measured: dict[int, float] = field(default_factory=dict)
    drawn_at: int | None = None


def lines(state: State, columns: int, encoding: str) -> list[Text]:
    """Return the lines for a terminal of so many columns: losses, scores and speed; the metric; the last picture.

    A line without values is left out, and one that is too long is cut off. Names are shown as they are, without markup.
    """
    found = (_training(state.values), _quality(state, encoding), _picture(state, columns))
    shown = [text for text in found if text is not None]
    for text in shown:
        text.no_wrap, text.overflow = True, "crop"  # not "ellipsis", whose character an encoding may lack
    return shown


def _training(values: Mapping[str, float]) -> Text | None:
    parts = []
    for head, names in GROUPS.items():
        known = [f"{word} {values[name]:.3g}" for name, word in names.items() if name in values]
        parts += [f"{head}: {', '.join(known)}"] if known else []
    parts += [f"{values[SPEED]:,.0f} images/s"] if SPEED in values else []
    return Text(f"  {'   '.join(parts)}") if parts else None


def _quality(state: State, encoding: str) -> Text | None:
    """Return the last measurement, how it compares with the one before, and a curve of the last ones."""
    if not state.measured:
        return None
    (step, value), values = list(state.measured.items())[-1], list(state.measured.values())
    text = Text(f"  {state.metric}: {value:.4g} at step {step}")
    if trend := compared(values, state.higher):
        text.append(", ").append(trend, STYLES.get(trend))
        text.append(f" than {values[-2]:.4g} before" if trend in ("better", "worse") else "")
    text.append(f" ({'higher' if state.higher else 'lower'} is better)")
    drawn = curve(values[-SHOWN:])
    return text.append(f" {drawn}") if drawn and _can_show(drawn, encoding) else text


def _picture(state: State, columns: int) -> Text | None:
    """Return where the last sample grid is: the whole path, or its end where that is wider than the terminal."""
    if state.drawn_at is None:
        return None
    path = picture(state.folder, SAMPLES, state.drawn_at)
    whole = f"  picture: {show(path)}"
    return Text(whole if len(whole) <= columns else f"  picture: {path.relative_to(state.folder)}")


def compared(values: Sequence[float], higher: bool) -> str:
    """Return how the last value compares with the one before: better, worse or the same; empty for a first value."""
    if not values or not math.isfinite(values[-1]):
        return "not finite" if values else ""
    if len(values) < 2 or not math.isfinite(values[-2]):
        return ""
    if values[-1] == values[-2]:
        return "the same"
    return "better" if (values[-1] > values[-2]) is higher else "worse"


def curve(values: Sequence[float]) -> str:
    """Draw values as blocks of eight heights, those not finite as spaces; positive ones on a logarithmic scale.

    Empty for fewer than two different values.
    """
    known = [value for value in values if math.isfinite(value)]
    if len(set(known)) < 2:
        return ""
    scaled = math.log if min(known) > 0 else float
    low, high = scaled(min(known)), scaled(max(known))
    top = len(BLOCKS) - 1
    if not high > low:  # too close, or too far apart, for numbers of this kind
        return ""
    heights = [round(top * (scaled(value) - low) / (high - low)) if math.isfinite(value) else None for value in values]
    return "".join(" " if height is None else BLOCKS[height] for height in heights)


def _can_show(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True
