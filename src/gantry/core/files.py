"""Finds Gantry's own configs; reads and writes small files: JSON, JSON lines, PNG."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np


PACKAGED = Path(__file__).parents[1] / "conf"  # where a wheel has them
ROOT = Path(__file__).parents[3]  # of a checkout


def config_dir() -> Path:
    """Return the folder of train.yaml and its groups: of the installed wheel, or else of the checkout."""
    return PACKAGED if PACKAGED.is_dir() else ROOT / "conf"


def new_output_folder(kind: str) -> Path:
    """A folder in `outputs`, named by the present time, for what no run owns; not made yet."""
    now = datetime.now()
    return Path.cwd() / "outputs" / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}_{kind}"


def check_writable(folder: Path, option: str = "out") -> None:
    """Refuse a folder, existing or still to be made, in which no file can be made; nothing is left there.

    Args:
        folder: absolute.
        option: the option that names the folder.

    Raises:
        UserError: with the reason.
    """
    try:
        there = next(one for one in (folder, *folder.parents) if one.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(
            f"{option}={folder} cannot be written: {error.strerror or error}; choose another {option}=..."
        ) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the file's values; None where it is missing or not valid JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write `values` atomically: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(values, indent=2) + "\n")
    part.replace(path)


def append_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Append one JSON line per record; a partial line that a killed run left is terminated first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        torn = file.tell() > 0 and _last_byte(file) != b"\n"
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        file.write(b"\n" * torn + lines.encode())


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def write_png(image: np.ndarray, path: Path, text: Mapping[str, int] | None = None) -> None:
    """Write a uint8 (height, width, 1 or 3) image as PNG, atomically.

    Args:
        text: numbers kept in the file's text chunks by name, such as `zoom`, how often each pixel was repeated.
    """
    from PIL import Image, PngImagePlugin

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    said = PngImagePlugin.PngInfo()
    for name, number in (text or {}).items():
        said.add_text(name, str(number))
    try:
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture.save(part, format="PNG", compress_level=1, pnginfo=said)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)  # still there where the disk was full
