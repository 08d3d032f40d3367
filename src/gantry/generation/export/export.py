"""Exports a generator to a folder in the formats asked for, with its model card."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from gantry.core.errors import UserError
from gantry.core.files import write_png
from gantry.core.text import did_you_mean
from gantry.data.alpha import RGBA
from gantry.data.grid import GRID, enlarged_grid, reduced
from gantry.generation.classes import MOST_ROWS, class_rows, in_turn
from gantry.generation.export import model_card as card
from gantry.generation.export.model_card import Written, model_card
from gantry.generation.export.portable import LOADER, SOURCES, write_portable
from gantry.generation.export.programs import require_onnx, write_onnx, write_torch_export, write_torchscript
from gantry.models.labels import Classes
from gantry.models.latents import stream
from gantry.models.sampling import generate
from gantry.runs.generator_files import TRUSTED, load_generator
from gantry.runs.generator_metadata import GENERATOR_CONFIG, WEIGHTS, exported_classes, exported_step
from gantry.runs.generators import ExportedFiles

FORMATS = ("safetensors", "torch_export", "onnx", "torchscript")
DEFAULT = FORMATS[:3]  # torch warns that TorchScript is deprecated
PROGRAM, ONNX, SCRIPT = "generator.pt2", "generator.onnx", "generator.torchscript"
PARTIAL = ".partial"  # in the folder, files that are not complete yet
OURS = {
    *(card.FILE, WEIGHTS, GENERATOR_CONFIG, LOADER, SOURCES, PROGRAM, ONNX, SCRIPT, card.PICTURE, PARTIAL),
    "__pycache__",
}
SHOWN = 64  # number of images in the picture


@dataclass(frozen=True)
class Export:
    """An export that was written.

    Attributes:
        folder: the export's folder.
        files: its files, the card last.
        failed: by format, why the network cannot be written in it.
        needs: packages besides torch that the network's source imports.
    """

    folder: Path
    files: tuple[Written, ...]
    failed: Mapping[str, str]
    needs: tuple[str, ...]


def export_generator(
    source: Path,
    folder: Path,
    *,
    run: Path | None = None,
    formats: Sequence[str] = DEFAULT,
    licence: str | None = None,
    trusted: Sequence[str] = (TRUSTED,),
) -> Export:
    """Write a generator to `folder` in several formats, with its model card and a picture of samples.

    All files are written and checked before any is moved to its place. Files of an earlier export are replaced.

    Args:
        source: an exported generator's folder, see `gantry.runs.generator_files`.
        folder: created if missing.
        run: the folder of the run it comes from, for the card.
        formats: some of `FORMATS`.
        licence: of the generator, in the user's words, for the card.
        trusted: see `load_generator`.

    Raises:
        UserError: an unknown format; a library is missing; `folder` contains other files or cannot be written; no
            generator that can be loaded; or it cannot be written in any of the formats.
    """
    _check_formats(formats)
    _check_folder(source, folder)
    network = load_generator(source, tuple(trusted))
    with _partial(folder) as part:
        made, failed, needs = _write(network, source, part, formats, trusted)
        if not made:
            raise UserError("\n  ".join(["export: the generator cannot be written:", *failed.values()]))
        parameters = sum(weight.numel() for weight in network.parameters())
        text = model_card(source, run, licence=licence, parameters=parameters, files=made, needs=needs)
        (part / card.FILE).write_text(text, encoding="utf-8")
        made.append(Written(part, card.FILE))
        _publish(part, folder, {file.name.partition("/")[0] for file in made})
    return Export(folder, tuple(replace(file, folder=folder) for file in made), failed, needs)


def _check_formats(formats: Sequence[str]) -> None:
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"formats: {name!r} is none{did_you_mean(name, FORMATS)} (formats: {', '.join(FORMATS)})")
    if not formats:
        raise UserError(f"formats: name at least one of {', '.join(FORMATS)}")
    if "onnx" in formats:
        require_onnx()


def _check_folder(source: Path, folder: Path) -> None:
    """Refuse a folder that contains anything but an earlier export, recognised by its card."""
    try:
        held = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise UserError(f"export={folder}: is no folder that can be read: {error.strerror}") from error
    if not held:
        return
    marked = any(_is_marked(path) for path in (folder / card.FILE, folder / PARTIAL / card.FILE))
    others = [name for name in held if name not in OURS]
    if source.resolve() == folder.resolve() or others or not (marked or held == [PARTIAL]):
        raise UserError(
            f"export={folder}: holds something else ({', '.join(others or held)[:200]}), which an export would mix "
            "with or replace; name a new folder, or that of an earlier export"
        )


def _is_marked(path: Path) -> bool:
    try:
        return card.MARK in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """Create a temporary folder in `folder`, which is deleted on failure."""
    existed = folder.exists()
    part = folder / PARTIAL
    try:
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(parents=True)
        yield part
    except OSError as error:
        raise UserError(f"export={folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _write(
    network: nn.Module, source: Path, part: Path, formats: Sequence[str], trusted: Sequence[str]
) -> tuple[list[Written], dict[str, str], tuple[str, ...]]:
    """Write the formats to `part`; returns the files, the failures by format, and packages needed besides torch."""
    z_dim, classes = ExportedFiles(source, ()).z_dim, exported_classes(source)
    made: list[Written] = []
    failed: dict[str, str] = {}
    needs: tuple[str, ...] = ()
    for name in sorted(set(formats), key=FORMATS.index):
        try:
            if name == "safetensors":
                needs = write_portable(source, part, trusted)
                made += [Written(part, WEIGHTS, 0.0), Written(part, GENERATOR_CONFIG), Written(part, LOADER)]
                sources = sorted(path for path in (part / SOURCES).rglob("*") if path.is_file())
                made += [Written(part, path.relative_to(part).as_posix()) for path in sources]
            elif name == "torch_export":
                made.append(Written(part, PROGRAM, write_torch_export(network, z_dim, part / PROGRAM, classes)))
            elif name == "onnx":
                difference = write_onnx(network, z_dim, part / ONNX, exported_step(source), classes)
                made.append(Written(part, ONNX, difference))
            else:
                made.append(Written(part, SCRIPT, write_torchscript(network, z_dim, part / SCRIPT, classes)))
        except UserError as error:
            failed[name] = str(error)
            if name == "safetensors":  # this format has several files
                for left in part.iterdir():
                    _remove(left)
    images, columns = _shown(network, z_dim, classes)
    if made and images.shape[1] in (1, 3, RGBA):  # grey or colour; others cannot be drawn
        write_png(enlarged_grid(reduced(images), columns), part / card.PICTURE)
        made.append(Written(part, card.PICTURE))
    return made, failed, needs


def _shown(network: nn.Module, z_dim: int, classes: Classes | None) -> tuple[Tensor, int]:
    """Return the images of the picture, uint8 (N, C, H, W), and how many are in a row: of one class, where it has."""
    if classes is None:
        return generate(network, torch.from_numpy(stream(0, 0, SHOWN, z_dim))), GRID
    rows = range(min(MOST_ROWS, len(classes)))
    columns, numbers = class_rows(SHOWN, len(rows))
    labels = in_turn(classes, rows)(0, 0, len(numbers))
    z = stream(0, 0, len(numbers), z_dim)
    return generate(network, torch.from_numpy(z[numbers]), torch.from_numpy(labels[numbers])), columns


def _publish(part: Path, folder: Path, names: set[str]) -> None:
    """Move these files to their place, the card last, and remove other files of an earlier export."""
    for name in OURS - {PARTIAL, card.FILE, *names}:
        _remove(folder / name)
    for name in sorted(names, key=lambda name: name == card.FILE):
        if (part / name).is_dir():
            _remove(folder / name)
        (part / name).replace(folder / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
