"""Writes pictures of generated images: grids, walks, planes, and the samples nearest to given images."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gantry.core.errors import UserError, reason
from gantry.core.files import write_png
from gantry.core.progress import progress
from gantry.core.text import show
from gantry.data.alpha import RGBA
from gantry.data.grid import LARGEST, enlarged_grid, reduced
from gantry.data.image_folder import listing
from gantry.data.images import decode
from gantry.data.reading import Seen
from gantry.data.sample_files import samples
from gantry.generation.animation import save_animation
from gantry.generation.classes import class_rows, mixtures, said
from gantry.generation.latent.directions import directions
from gantry.generation.latent.directions import plane as plane_of
from gantry.generation.latent.interpolation import walk as walk_through
from gantry.generation.latent.projection import project
from gantry.generation.output_paths import LABELS
from gantry.generation.write_images import Order, writing
from gantry.models.code_images import code_images, rows_of
from gantry.models.labels import Classes
from gantry.models.latents import stream
from gantry.models.networks.latent_map import latent_map
from gantry.models.sampling import generate

FRAMES_A_SECOND = 16
FRAME = 1536  # pixels of a film's width, about, above which images of more than `LARGEST` pixels are reduced
MOST_PROJECTED = 256  # largest number of images in one call
MOST_NAMED = 10  # classes in a message
T = TypeVar("T")
HIDDEN = 128  # grey level of masked pixels


def grid(order: Order, path: Path) -> None:
    """Write a PNG of the order's images in rows; where several classes come in turn, see `class_rows`."""
    tiles, cycle = order.network(0), order.labels.cycle if order.labels else None
    if cycle is None or len(cycle) == 1:
        _write(enlarged_grid(tiles.first(order.n), _columns(order.n)), path)
        return
    columns, numbers = class_rows(order.n, len(cycle))
    _write(enlarged_grid(tiles.first(len(numbers))[torch.from_numpy(numbers)], columns), path)


def walk(order: Order, latents: int, frames: int, path: Path) -> None:
    """Write a film of walks side by side, each through `latents` latents and back to its first; a strip has a row each.

    Args:
        order: `order.n` walks; walk j's latent k is number k * n + j of the seed's, its label the order's number j.
        latents: number of latents in each walk, at least 2.
        frames: pictures from one latent to the next.
        path: ends in .gif, .webp or .mp4, or in .png for a strip, which ends at the last latent.
    """
    strip = path.suffix.lower() == ".png"
    made = order.network(0)
    z = stream(order.seed, 0, latents * order.n, made.z_dim, order.truncation)
    steps = walk_through(torch.from_numpy(z).view(latents, order.n, made.z_dim), frames, closed=not strip)
    labels = None if order.labels is None else torch.from_numpy(order.labels(order.seed, 0, order.n))

    if strip:
        images = torch.stack([generate(made.network, latents_now, labels) for latents_now in steps], 1)
        _write(enlarged_grid(images.flatten(0, 1), len(steps)), path)
        return
    columns = _columns(order.n)
    most = max(LARGEST, FRAME // columns)
    films = (generate(made.network, latents_now, labels) for latents_now in steps)
    pictures = (enlarged_grid(reduced(images, most), columns) for images in films)
    with writing(path, left=""):
        save_animation(pictures, path, FRAMES_A_SECOND)


def plane(order: Order, points: int, which: tuple[int, int], extent: float, path: Path) -> None:
    """Write a PNG of the images on the plane that two latent directions span around the seed's first latent.

    The first direction goes from left to right, the second from top to bottom, each from -extent to extent. All images
    have the label of the order's first one, and the directions are those of its class.

    Raises:
        UserError: the latents have fewer directions.
    """
    made = order.network(0)
    if max(which) >= made.z_dim:
        raise UserError(f"directions: latents have {made.z_dim} directions, numbers 0 to {made.z_dim - 1}")
    vectors = directions(made.network, made.z_dim, order.seed, max(which) + 1, order.labels).vectors
    centre = torch.from_numpy(stream(order.seed, 0, 1, made.z_dim, order.truncation))[0]
    latents = plane_of(centre, vectors[which[0]], vectors[which[1]], points, extent)
    labels = None if order.labels is None else torch.from_numpy(order.labels(order.seed, 0, 1)).expand(points**2)
    _write(enlarged_grid(generate(made.network, latents.flatten(0, 1), labels), points), path)


def between(order: Order, steps: int, n_classes: int, path: Path) -> None:
    """Write a PNG of images that change from class to class, a latent of the seed in each row.

    The labels are mixtures, weights of the classes that change evenly; the latent is the same along a row.

    Args:
        order: its labels come in turn: the classes that a row passes through; of `order.n` images as many rows as are
            full, at least one.
        steps: columns from each class to the next.
        n_classes: number of the generator's classes.
        path: of the PNG.
    """
    assert order.labels is not None
    assert order.labels.cycle is not None
    made = order.network(0)
    weights = torch.from_numpy(mixtures(order.labels.cycle, n_classes, steps))
    rows = stream(order.seed, 0, max(1, order.n // len(weights)), made.z_dim, order.truncation)
    images = [generate(made.network, z.expand(len(weights), -1), weights) for z in torch.from_numpy(rows)]
    _write(enlarged_grid(torch.cat(images), len(weights)), path)


def codes(order: Order, columns: int, path: Path) -> str:
    """Write a PNG of the images in which each code of the generator's latents changes, see `code_images`.

    Args:
        order: its seed determines the latents, of which there are as many as columns.
        columns: images in a row, at least 2.
        path: of the PNG.

    Returns:
        The message for the user: the codes and their rows.

    Raises:
        UserError: the generator has no codes.
    """
    made = order.network(0)
    latents = latent_map(made.network)
    if latents is None:
        raise UserError("codes: the latents of this generator have no named parts; those of model=infogan have")
    z = torch.from_numpy(stream(order.seed, 0, columns, made.z_dim))
    _write(enlarged_grid(code_images(made.network, z), columns), path)  # type: ignore[arg-type]
    return "rows: " + ", ".join(f"{count} of {name}" for name, count in rows_of(latents, columns).items())


def projected(
    order: Order, given: Path, mask: Path | None, path: Path, cache: Path, classes: Classes | None = None
) -> str:
    """Find the samples nearest to images; with a mask, fill in the pixels that are white in it.

    Args:
        order: its seed determines the start of the search; its labels, which come in turn, are searched among.
        given: an image of any size or a folder of them, or an .npz of images of the generator's size.
        mask: an image, white where the given ones are damaged.
        path: of a PNG; its columns are the given images (with a mask, without the masked pixels), the nearest samples
            and, with a mask, the given images filled in. The latents are saved beside it as .npy, their labels as
            `LABELS`.
        cache: folder of decoded images.
        classes: of the generator, where it takes labels.

    Returns:
        The message for the user: the errors in grey levels of 255, and the classes that were found.
    """
    made = order.network(0)
    channels, height, width = made.tile(0).shape[1:]
    shape = (channels, height, width)
    target = torch.from_numpy(_images(given, shape, cache))
    hole = None if mask is None else torch.from_numpy(_mask(mask, shape, given))
    with progress("searching", 100, "%") as bar:
        projection = project(
            made.network,
            made.z_dim,
            target,
            hole,
            seed=order.seed,
            labels=order.labels.cycle if order.labels else None,
            progress=lambda share: bar.reach(round(100 * share)),
        )
    columns = [target, projection.images]
    messages = [f"nearest samples: {projection.errors.mean():.1f} grey levels of 255 from the pixels that are known"]
    if hole is not None and projection.repaired is not None:
        damaged = hole.expand_as(target)
        ours = _difference(projection.repaired.float(), target, damaged)
        plain = _difference(_known_mean(target, damaged), target, damaged)
        messages.append(
            f"filled in: {ours:.1f} from what the given pixels are there; the mean of the known pixels: {plain:.1f}"
        )
        columns = [target, _hidden(target, damaged), projection.images, projection.repaired]
    _write(enlarged_grid(torch.stack(columns, 1).flatten(0, 1), len(columns)), path)
    files = {"latents": (path.with_suffix(".npy"), projection.latents)}
    if projection.labels is not None and classes is not None:
        found = [said(classes, label) for label in dict.fromkeys(projection.labels.tolist())]
        messages.append(f"of class {', '.join(found[:MOST_NAMED])}{' ...' if len(found) > MOST_NAMED else ''}")
        files["labels"] = (path.with_suffix(LABELS), projection.labels)
    for name, (file, values) in files.items():
        with writing(file, left=""):
            np.save(file, values.numpy())
        messages.append(f"{name}  {show(file)}")
    return "\n".join(messages)


def _known_mean(target: Tensor, damaged: Tensor) -> Tensor:
    """Return the mean of each image's known values (with alpha, of each channel) in the shape of `target`."""
    known = (~damaged).double()
    over = (2, 3) if target.shape[1] == RGBA else (1, 2, 3)
    mean = (target * known).sum(over, keepdim=True) / known.sum(over, keepdim=True)
    return mean.float().expand(target.shape)


def _hidden(target: Tensor, damaged: Tensor) -> Tensor:
    """Return the images with opaque grey in place of the damaged pixels."""
    shown = target.masked_fill(damaged, HIDDEN)
    if target.shape[1] == RGBA:
        shown[:, 3:] = target[:, 3:].masked_fill(damaged[:, 3:], 255)
    return shown


def _images(given: Path, shape: tuple[int, int, int], cache: Path) -> np.ndarray:
    """Read the images to project, uint8 (N, C, H, W)."""
    if given.suffix.lower() in (".npz", ".npy") and not given.is_dir():
        loaded = samples(given, cache, shape)
        _check_few(given, len(loaded))
        return np.array(loaded.images)
    files = [given / name for name in listing(given, "project")] if given.is_dir() else [given]
    _check_few(given, len(files))
    return np.stack([_opened(f"project={file}", partial(decode, file, shape[1:], shape[0])) for file in files])


def _check_few(given: Path, count: int) -> None:
    if count > MOST_PROJECTED:
        raise UserError(f"project={given}: {count} images; at most {MOST_PROJECTED} at a time")


def _mask(path: Path, shape: tuple[int, int, int], given: Path) -> np.ndarray:
    """Read a mask of damaged pixels, bool (1, 1, H, W): white in the picture at `path`, cropped like its image."""
    if given.is_file() and given.suffix.lower() not in (".npz", ".npy"):
        (width, height), (wide, high) = (
            _opened(f"{key}={file}", partial(_size, file)) for key, file in (("mask", path), ("project", given))
        )
        if width * high != wide * height:
            raise UserError(
                f"mask={path} is {width}x{height} pixels, {given} {wide}x{high}: of other proportions it would mark "
                "other pixels, as of both the middle is taken, in the proportions of the generator's images"
            )
    hole = _opened(f"mask={path}", lambda: decode(path, shape[1:], 1))[None] > 127
    if hole.all() or not hole.any():
        what = (
            "white all over, which leaves no pixel to go by" if hole.all() else "nowhere white, so nothing is filled in"
        )
        raise UserError(f"mask={path} is {what}, at the generator's {shape[2]}x{shape[1]} pixels")
    return hole


def _size(path: Path) -> tuple[int, int]:
    """Return (width, height) of an image, upright as `decode` turns it."""
    seen = Seen()
    decode(path, 1, 1, seen)
    return seen.size


def _opened(what: str, decoded: Callable[[], T]) -> T:
    try:
        return decoded()
    except Exception as error:  # Pillow raises many types for a damaged file
        raise UserError(f"{what} is no image that can be read: {reason(error)}") from error


def _difference(images: Tensor, given: Tensor, where: Tensor) -> float:
    """Return the root mean squared difference in grey levels."""
    return float((images - given.float())[where].square().mean().sqrt())


def _columns(count: int) -> int:
    """Return the columns of a square grid, or of one that is wider by one column."""
    return math.ceil(math.sqrt(count))


def _write(picture: np.ndarray, path: Path) -> None:
    with writing(path, left=""):
        write_png(picture, path)
