"""Notes what reading finds in image files, and what it changes of them, so that a wrong reading can be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from gantry.data.sizes import Box, central

if TYPE_CHECKING:
    import numpy as np

COMPOSITED, SCALED, TURNED = "composited_on_ground", "scaled_from_16_bits", "turned_by_exif"
CROPPED, REDUCED, ENLARGED = "cropped", "reduced", "enlarged"
PREMULTIPLIED = "premultiplied"
FIRST_FRAME, MADE_GREY, MADE_RGB, ODD_METADATA = "first_frame_only", "made_grey", "made_rgb", "metadata_ignored"
UNREADABLE, HIDDEN, NO_ENDING = "unreadable", "hidden", "no ending"
LINKED = "linked twice"
SAID = {  # how each alteration is put to users
    COMPOSITED: "transparent, laid on white",
    PREMULTIPLIED: "transparent, colours multiplied by alpha",
    SCALED: "16 bits a channel, scaled to 8",
    TURNED: "turned upright by EXIF",
    CROPPED: "cropped to the central {proportions}",
    REDUCED: "reduced",
    ENLARGED: "enlarged",
    FIRST_FRAME: "animations, of which the first frame is taken",
    MADE_GREY: "stored in colour, made grey",
    MADE_RGB: "CMYK and the like converted to RGB",
    ODD_METADATA: "with metadata that cannot be read, taken as they are stored",
}
KEPT = 5  # sizes of files that are recorded by name, the commonest


@dataclass
class Seen:
    """What decoding one file has found; the decoders fill it in.

    Attributes:
        size: (width, height) of the file's image, upright, in pixels.
        format: Pillow's name of the file's format, such as PNG.
        altered: what was changed, of the keys of `SAID`.
        brightest: the largest value of a pixel of 16 bits, 0 to 65535; None for other files.
        pixels: the least and the largest value of the decoded pixels, 0 to 255.
        read_otherwise: True if other tools read other pixels, see `gantry.data.images.decode_exactly`.
        cut: the share of the picture that was cropped away, 0 to 1.
    """

    size: tuple[int, int] = (0, 0)
    format: str = ""
    altered: set[str] = field(default_factory=set)
    brightest: int | None = None
    pixels: tuple[int, int] = (0, 255)
    read_otherwise: bool = False
    cut: float = 0.0


@dataclass(frozen=True)
class Reading:
    """What reading has found in all files of an image set.

    Attributes:
        files: the image files that were read.
        sizes: the commonest sizes of their images, ((width, height), files); see `distinct` for how many there are.
        distinct: the number of different sizes.
        smallest, largest: (width, height) of the images with the fewest and the most pixels.
        formats: files by format, such as {"PNG": 60}.
        altered: files by what was changed of them, of the keys of `SAID`; absent keys mean none.
        brightest: the largest value among pixels of 16 bits, 0 to 65535; None where no file has them.
        pixels: the least and the largest value of all decoded pixels, 0 to 255; None where they were not looked at.
        read_otherwise: files of which other tools read other pixels; counted where images are read exactly.
        left_out: files that were not taken, by their ending, or `UNREADABLE`, `HIDDEN` or `NO_ENDING`;
            and folders, as `LINKED`, of which files were taken under another path.
        labels: where the labels are from, or why there are none.
        warning: what else users should look at; None where all is usual.
        cut: the largest share of a picture that was cropped away, 0 to 1; None where it was not noted.
    """

    files: int = 0
    sizes: tuple[tuple[tuple[int, int], int], ...] = ()
    distinct: int = 0
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    formats: dict[str, int] = field(default_factory=dict)
    altered: dict[str, int] = field(default_factory=dict)
    brightest: int | None = None
    pixels: tuple[int, int] | None = None
    read_otherwise: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    labels: str = ""
    warning: str | None = None
    cut: float | None = None

    def record(self) -> dict[str, Any]:
        """Return the values for a JSON file."""
        return asdict(self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Reading:
        """Return the reading that `record` was made of."""
        sizes = tuple(((width, height), count) for (width, height), count in record["sizes"])
        pairs = {
            name: None if record[name] is None else tuple(record[name]) for name in ("smallest", "largest", "pixels")
        }
        return cls(**{**record, **pairs, "sizes": sizes})


class Tally:
    """Adds up what was seen in each file to a `Reading`."""

    def __init__(self) -> None:
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._formats: Counter[str] = Counter()
        self._altered: Counter[str] = Counter()
        self._brightest: int | None = None
        self._low, self._high = 255, 0
        self._otherwise = 0
        self._cut = 0.0

    def add(self, seen: Seen) -> None:
        """Count one file that was read."""
        self._sizes[seen.size] += 1
        self._formats[seen.format] += 1
        self._altered.update(seen.altered)
        self._otherwise += seen.read_otherwise
        self._cut = max(self._cut, seen.cut)
        self._low, self._high = min(self._low, seen.pixels[0]), max(self._high, seen.pixels[1])
        if seen.brightest is not None:
            self._brightest = max(self._brightest or 0, seen.brightest)

    def reading(self) -> Reading:
        """Return the sum."""
        by_area = sorted(self._sizes, key=lambda size: (size[0] * size[1], size))
        files = self._sizes.total()
        return Reading(
            files=files,
            sizes=tuple(self._sizes.most_common(KEPT)),
            distinct=len(by_area),
            smallest=by_area[0] if by_area else None,
            largest=by_area[-1] if by_area else None,
            formats=dict(self._formats.most_common()),
            altered={name: self._altered[name] for name in SAID if self._altered[name]},
            brightest=self._brightest,
            pixels=(self._low, self._high) if files else None,
            read_otherwise=self._otherwise,
            cut=self._cut,
        )


def array_reading(images: np.ndarray, height: int, width: int) -> Reading:
    """Return the reading of images that lay in an array, uint8 (N, C, H, W), and became `height` by `width` pixels."""
    count, _, own_height, own_width = images.shape
    own = (own_width, own_height)
    seen = Seen(size=own)
    note_size(seen, central(own_height, own_width, (height, width)), (height, width))
    altered = {name: count for name in SAID if name in seen.altered}
    return Reading(count, ((own, count),), 1, own, own, altered=altered, labels="the data set's own", cut=seen.cut)


def note_size(seen: Seen, box: Box, wanted: tuple[int, int]) -> None:
    """Note that the part of the image in `box`, (left, top, right, bottom), became `wanted`, (height, width)."""
    width, height = box[2] - box[0], box[3] - box[1]
    kept, whole = width * height, seen.size[0] * seen.size[1]
    if kept != whole:
        seen.altered.add(CROPPED)
        seen.cut = 1 - kept / whole
    if (height, width) != wanted:
        seen.altered.add(REDUCED if kept > wanted[0] * wanted[1] else ENLARGED)
