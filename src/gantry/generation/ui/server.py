"""Serves a page that shows a generator's images, with sliders for its latents, on this machine only."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from gantry.core.errors import UserError
from gantry.data.grid import GRID, LARGEST, enlarged_grid, reduced
from gantry.generation.classes import MOST_ROWS, class_rows, in_turn
from gantry.generation.latent.directions import directions
from gantry.generation.output_paths import ADDRESS, check_port
from gantry.models.labels import Classes
from gantry.models.latents import stream
from gantry.models.sampling import generate
from gantry.runs.generators import ExportedFiles

APP = Path(__file__).parent / "app.py"  # Streamlit puts its folder first on sys.path
SETTINGS = {
    "server.address": ADDRESS,
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "logger.hideWelcomeMessage": "true",
    "logger.level": "warning",
}
WIDE = 720  # largest width in pixels of the enlarged grid


class Shown(NamedTuple):
    """A loaded generator with its directions.

    Attributes:
        network: in eval mode.
        z_dim: length of its latents.
        directions: float32 (2, z_dim), along which its images change most, on average over its classes.
        classes: whose labels it takes; None where it takes none.
    """

    network: nn.Module
    z_dim: int
    directions: np.ndarray
    classes: Classes | None = None


def serve(folder: Path, trusted: tuple[str, ...], port: int) -> None:
    """Serve the page for the generator in `folder` until SIGINT or SIGTERM, in this process.

    Args:
        folder, trusted: see `gantry.runs.generator_files.load_generator`.
        port: of the loopback interface, which other machines cannot reach.

    Raises:
        UserError: Streamlit is not installed, the port is in use, or there is no such generator; before anything
            is served.
    """
    if find_spec("streamlit") is None:
        raise UserError(
            "ui=true shows a page by Streamlit, which is not installed; "
            "pip install -c constraints.txt -e '.[ui]' does it"
        )
    check_port(port)
    loaded(folder, trusted)
    from streamlit.web.cli import main

    options = [f"--{name}={value}" for name, value in (SETTINGS | {"server.port": str(port)}).items()]
    print(f"http://{ADDRESS}:{port} shows {folder}; Ctrl-C ends it", flush=True)
    main(["run", str(APP), *options, "--", str(folder), *trusted], standalone_mode=False)


@functools.cache
def loaded(folder: Path, trusted: tuple[str, ...]) -> Shown:
    """Load the generator in `folder` once for all viewers.

    Raises:
        UserError: see `gantry.runs.generator_files.load_generator`.
    """
    files = ExportedFiles(folder, trusted)
    network, z_dim, classes = files.load(), files.z_dim, files.classes()
    labels = None if classes is None else in_turn(classes)
    return Shown(network, z_dim, directions(network, z_dim, 0, min(2, z_dim), labels).vectors.numpy(), classes)


def picture(
    shown: Shown,
    seed: int,
    count: int,
    truncation: float | None,
    along: tuple[float, float],
    label: int | None = None,
) -> np.ndarray:
    """Draw the grid of the first `count` images of a seed, uint8 (H, W, 3), enlarged without smoothing.

    Args:
        truncation: see `gantry.models.latents.stream`; None: not truncated.
        along: shift of every latent along the two directions, in standard deviations.
        label: of all images, where the generator takes labels; None: a class a row, as sample.py arranges them.
    """
    columns, numbers, labels = GRID, np.arange(count), None
    if shown.classes is not None:
        rows = [label] if label is not None else range(min(MOST_ROWS, len(shown.classes), count))
        columns, numbers = class_rows(count, len(rows)) if label is None else (columns, numbers)
        labels = torch.from_numpy(in_turn(shown.classes, rows)(seed, 0, len(numbers))[numbers])
    z = stream(seed, 0, len(numbers), shown.z_dim, truncation)[numbers]
    z = z + np.asarray(along[: len(shown.directions)], np.float32) @ shown.directions
    images = generate(shown.network, torch.from_numpy(z), labels)
    grid = enlarged_grid(reduced(images, max(LARGEST, WIDE // min(count, columns))), columns)
    scale = max(1, WIDE // max(grid.shape[:2]))
    return grid.repeat(scale, 0).repeat(scale, 1)
