"""Says in a few lines what an image set holds and how it was read, so that a wrong reading is seen at a glance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gantry.data.alpha import GROUND, RGBA, on_ground
from gantry.data.images import ImageSet
from gantry.data.reading import CROPPED, PREMULTIPLIED, SAID, SCALED, UNREADABLE, Reading
from gantry.data.sizes import proportions

CLASSES, ENDINGS = 10, 8  # shown by name; the rest is counted
LOOKED_AT = 256  # images
CHANNELS = {1: "greyscale", 3: "colour", RGBA: "colour with alpha"}
DARK = 80  # of 255: pixels that are nowhere as bright use a fraction of the range


def describe(data: ImageSet) -> str:
    """Return the lines: images, size, channels and classes; then the files, what was left out and what altered."""
    _, height, width = data.shape
    size = f"{width}x{height}" + (" (width x height)" if width != height else "")
    colour = CHANNELS.get(data.shape[0], f"{data.shape[0]} channels")
    if data.drawn_shape[0] == RGBA:
        colour += f"{', measured' if data.shape[0] == RGBA else ''} on {data.ground or GROUND}"
    lines = [f"{data.name}: {len(data)} images ({data.split}), {size} {colour}, {_classes(data)}"]
    reading = data.reading
    if reading is not None:
        if reading.formats or (reading.smallest is not None and reading.smallest != (width, height)):
            lines.append(f"  from {_files(reading)}")
        if reading.left_out:
            lines.append(f"  left out: {_left_out(reading.left_out)}")
        if reading.altered:
            counted = (f"{count} {_altered(name, data)}" for name, count in reading.altered.items())
            lines.append(f"  altered: {', '.join(counted)}")
    return "\n".join(lines)


def warnings_of(data: ImageSet) -> list[str]:
    """Return what users should look at before they train on these images or measure against them."""
    reading = data.reading
    found: list[str] = []
    if reading is None:
        return found
    if reading.warning:
        found.append(f"{data.name}: {reading.warning}")
    if reading.brightest is not None and reading.brightest < DARK * 257:
        bits = max(reading.brightest, 1).bit_length()
        found.append(
            f"{data.name}: the brightest pixel of its 16-bit files is {reading.brightest}, "
            f"{reading.brightest / 65535:.1%} of white. Are they {bits}-bit pictures? Multiply by {2 ** (16 - bits)}"
        )
    elif reading.pixels is not None and reading.pixels[1] < DARK:
        what = "numbers of classes, or 0 to 1, rather than grey levels"
        if SCALED in reading.altered:
            what = "fewer than 16 bits, such as 12"
        brightest = f"the brightest pixel of all its images is {reading.pixels[1]} of 255"
        found.append(f"{data.name}: {brightest}. Do its files hold {what}?")
    if reading.pixels is not None and reading.pixels[0] == reading.pixels[1]:
        found.append(f"{data.name}: all pixels of all its images are equal")
    return found + (_alpha_warnings(data, reading) if data.drawn_shape[0] == RGBA else [])


def _alpha_warnings(data: ImageSet, reading: Reading) -> list[str]:
    """Return what is odd about images with alpha."""
    if reading.formats and PREMULTIPLIED not in reading.altered:
        return [f"{data.name}: none of its images is transparent: data.channels=3 reads the same pictures"]
    ground = data.ground or GROUND
    seen = on_ground(np.asarray(data.images[:LOOKED_AT]), ground)
    if (255 - seen if ground == "white" else seen).max() < DARK:
        return [
            f"{data.name}: its first {len(seen)} images are all but {ground} on {ground}, where they are measured; "
            f"data.ground={'black' if ground == 'white' else 'white'} shows them"
        ]
    return []


def data_record(data: ImageSet) -> dict[str, Any]:
    """Return what `describe` says as values for a JSON file."""
    return {
        "name": data.name,
        "images": len(data),
        "shape": list(data.shape),
        "split": data.split,
        "source": data.source,
        "classes": None if data.labels is None else dict(_counts(data)),
        "reading": None if data.reading is None else data.reading.record(),
    }


def data_tags(data: ImageSet) -> dict[str, str]:
    """Return what `describe` says as tags of a run; without those of which there is nothing to say."""
    _, height, width = data.shape
    alpha = {"data.alpha": "premultiplied"} if data.shape[0] == RGBA else {}
    tags = {"data.images": str(len(data)), "data.size": f"{width}x{height}", "data.classes": _classes(data)}
    reading = data.reading
    if reading is not None:
        tags |= {"data.files": _files(reading)} if reading.files else {}
        tags |= {"data.left_out": _left_out(reading.left_out)} if reading.left_out else {}
        altered = ", ".join(f"{name} {count}" for name, count in reading.altered.items())
        tags |= {"data.altered": altered} if altered else {}
    return tags | alpha | ({"data.skipped": str(data.skipped)} if data.skipped else {})


def _counts(data: ImageSet) -> list[tuple[str, int]]:
    """Return the images of each class by its name, absent ones and labels without a name among them."""
    assert data.labels is not None
    values, counts = np.unique(data.labels, return_counts=True)
    held = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    names = dict(enumerate(data.classes or ()))
    return [(names.get(value, str(value)), held.get(value, 0)) for value in sorted(names.keys() | held.keys())]


def _classes(data: ImageSet) -> str:
    origin = "" if data.reading is None else data.reading.labels
    if data.labels is None:
        return origin or "no labels"
    counts = _counts(data)
    shown = _listed(((count, name) for name, count in counts), len(counts), CLASSES, "{1} ({0})")
    return f"{len(counts)} classes{f' {origin}' if origin.startswith('by ') else ''}: {shown}"


def _files(reading: Reading) -> str:
    kinds = ", ".join(f"{count} {name}" for name, count in reading.formats.items())
    what = f"{reading.files} files ({kinds})" if len(reading.formats) > 1 else kinds or f"{reading.files} images"
    if reading.distinct == 1 and reading.smallest is not None:
        return "{} of {}x{}".format(what, *reading.smallest)
    (common, count), *_ = reading.sizes
    return "{} of {} sizes, {}x{} to {}x{}, {} of them {}x{}".format(
        what, reading.distinct, *(reading.smallest or ()), *(reading.largest or ()), count, *common
    )


def _altered(name: str, data: ImageSet) -> str:
    """Say an alteration of the keys of `SAID`; of cropping also to what, and how much of a picture was lost at most."""
    said = SAID[name].format(proportions=proportions(*data.shape[1:]))
    cut = data.reading.cut if data.reading is not None and name == CROPPED else None
    return f"{said} ({cut:.0%} of a picture cut off at most)" if cut else said


def _left_out(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (item[0] != UNREADABLE, -item[1], item[0]))
    return _listed(((count, ending) for ending, count in ordered), len(ordered), ENDINGS, "{0} {1}")


def _listed(items: Iterable[tuple[int, str]], total: int, most: int, form: str) -> str:
    """List the first `most` of `total` counted things."""
    shown = [form.format(*item) for _, item in zip(range(most), items, strict=False)]
    return ", ".join(shown) + (f" and {total - most} more" if total > most else "")
