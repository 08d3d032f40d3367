"""Says how the files of somebody's images were read otherwise than by other tools, or had lost pixels before."""

from gantry.data.images import ImageSet
from gantry.data.reading import COMPOSITED, SAID, SCALED, TURNED

OURS = (COMPOSITED, SCALED, TURNED)  # alterations that those tools do not make
LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF", "HEIF")  # Pillow's names of formats that need not keep pixels


def caveats(data: ImageSet) -> list[str]:
    """Return what makes other tools give other scores to these files, and what was lost in them, a sentence each."""
    reading = data.reading
    if reading is None:
        return []
    said = []
    if reading.read_otherwise:
        how = ", ".join(f"{reading.altered[name]} {SAID[name]}" for name in OURS if name in reading.altered)
        said.append(
            f"{reading.read_otherwise} of {reading.files} images in {data.source} are altered before they are measured "
            f"({how}). "
            "torch-fidelity, pytorch-fid and clean-fid do not do that, and give other values. To have the same from "
            "all, save them without transparency and EXIF, in 8 bits"
        )
    if lossy := {name: count for name, count in reading.formats.items() if name in LOSSY}:
        said.append(
            f"{sum(lossy.values())} of {reading.files} images in {data.source} are {' or '.join(lossy)} files: lossy "
            "compression changes the scores. Save PNG files"
        )
    return said
