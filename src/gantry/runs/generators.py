"""Loads trained generators from disk and generates images from them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gantry.core.errors import UserError
from gantry.core.files import read_json
from gantry.models.labels import Classes, LabelSource
from gantry.models.latents import stream
from gantry.runs import checkpoint_files
from gantry.runs.folder import BEST, GENERATOR, SUMMARY_FILE
from gantry.runs.generator_metadata import GENERATOR_CONFIG, WEIGHTS, exported_classes, exported_step

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ExportedFiles:
    """An exported generator, as `gantry.runs.generator_files.save_generator` writes it; picklable.

    Attributes:
        folder: holds generator.safetensors and generator.json.
        trusted: prefixes of the classes that may be instantiated.
    """

    folder: Path
    trusted: tuple[str, ...]

    def load(self) -> nn.Module:
        """Load the network, in eval mode.

        Raises:
            UserError: it is missing, damaged, or of a class that is not trusted.
        """
        from gantry.runs.generator_files import load_generator

        return load_generator(self.folder, self.trusted)

    def step(self) -> int | None:
        """Return the generator step it was exported at; None where that was not recorded."""
        return exported_step(self.folder)

    def digest(self) -> str:
        """Return the sha256 of its config and weights."""
        return _digest(self.folder / GENERATOR_CONFIG, self.folder / WEIGHTS)

    def is_of(self, digest: str) -> bool:
        """Return True where the folder holds the generator with this digest."""
        try:
            return self.digest() == digest
        except OSError:
            return False

    @property
    def z_dim(self) -> int:
        """Return the length of its latents; requires that `load` has succeeded."""
        length: int = json.loads((self.folder / GENERATOR_CONFIG).read_text())["z_dim"]
        return length

    def classes(self) -> Classes | None:
        """Return the classes whose labels it takes; None where it takes none.

        Raises:
            UserError: the weights are missing or damaged.
        """
        return exported_classes(self.folder)


@dataclass(frozen=True)
class GeneratorFiles:
    """A run's generator on disk; picklable, for worker processes.

    Attributes:
        run: the run's folder.
        which: "best" (at the step with the best first metric) or "last".
        raw: use the generator without averaging, from the checkpoint.
        trusted: prefixes of the classes that may be instantiated.
    """

    run: Path
    which: str
    raw: bool
    trusted: tuple[str, ...]

    @property
    def exported(self) -> ExportedFiles:
        """Return the run's export, which holds the averaged generator even where `raw` is set."""
        return ExportedFiles(self.run / GENERATOR / self.which, self.trusted)

    @property
    def folder(self) -> Path:
        """Return the folder of the export."""
        return self.exported.folder

    @property
    def z_dim(self) -> int:
        """Return the length of its latents."""
        return self.exported.z_dim

    def classes(self) -> Classes | None:
        """Return the classes whose labels it takes; None where it takes none."""
        return self.exported.classes()

    def load(self) -> nn.Module:
        """Load the network, in eval mode.

        Raises:
            UserError: it is missing, damaged, or of a class that is not trusted.
        """
        network = self.exported.load()
        if self.raw:
            from gantry.core.safe_load import reason

            try:
                state = self._checkpoint()["state_dict"].items()
                own = {key.removeprefix("generator."): value for key, value in state if key.startswith("generator.")}
                network.load_state_dict(own)
            except (RuntimeError, TypeError, KeyError, AttributeError, ValueError) as error:
                raise UserError(f"the checkpoint {self._path()} is not of this generator: {reason(error)}") from error
        return network

    def step(self) -> int:
        """Return the generator step of the network."""
        if self.raw:  # the checkpoint of a stopped run is later than its export
            return self._checkpoint_step()
        step = self.exported.step()
        if step is None:  # exported before exports recorded the step
            summary = read_json(self.run / SUMMARY_FILE) or {}
            step = summary.get("best_step" if self.which == BEST else "steps")
        return self._checkpoint_step() if step is None else step

    def digest(self) -> str:
        """Return the sha256 of its config and weights, and of the checkpoint where `raw` is set."""
        return _digest(self.folder / GENERATOR_CONFIG, self.folder / WEIGHTS, *([self._path()] if self.raw else []))

    def _path(self) -> Path:
        kind = checkpoint_files.BEST if self.which == BEST else None
        checkpoint = checkpoint_files.newest(self.run, kind)
        if checkpoint is None:
            raise UserError(f"{self.run / checkpoint_files.FOLDER} holds no whole checkpoint of the {self.which} step")
        return checkpoint.path

    def _checkpoint_step(self) -> int:
        try:
            return int(self._checkpoint()["global_step"])
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"the checkpoint {self._path()} is none: it says of no step") from error

    def _checkpoint(self) -> Any:
        from gantry.core.safe_load import load_plain

        return load_plain(self._path(), f"the checkpoint {self._path()}")


@dataclass(frozen=True)
class GeneratorSource:
    """The images that a generator makes from one endless stream of latents.

    Latent i depends on the seed and i alone, whatever is generated before it and by which process.

    Args:
        network: in eval mode, on its device; maps (B, z_dim) to (B, C, H, W) in [-1, 1].
        z_dim: length of a latent.
        seed: of the latents.
        first: position of image 0 in the stream.
        count: number of images.
        labels: of the images, where the network takes labels.
    """

    network: nn.Module
    z_dim: int
    seed: int
    first: int
    count: int
    labels: LabelSource | None = None

    def __len__(self) -> int:
        return self.count

    def __call__(self, start: int, count: int) -> Tensor:
        z = stream(self.seed, self.first + start, count, self.z_dim)
        return self._images(z, self.asked(start, count))

    def asked(self, start: int, count: int) -> np.ndarray | None:
        """Return the labels of images `start` to `start + count`, int64 (count,); None where there are none."""
        return None if self.labels is None else self.labels(self.seed, self.first + start, count)

    def of(self, numbers: np.ndarray) -> Tensor:
        """Generate the images with these numbers, int64 (k,)."""
        vectors = [stream(self.seed, self.first + int(number), 1, self.z_dim) for number in numbers]
        asked = [self.asked(int(number), 1) for number in numbers]
        labels = [one for one in asked if one is not None]
        return self._images(np.concatenate(vectors), np.concatenate(labels) if labels else None)

    def _images(self, z: np.ndarray, labels: np.ndarray | None) -> Tensor:
        import torch

        from gantry.models.sampling import generate

        with torch.autocast(next(self.network.parameters()).device.type, enabled=False):
            return generate(self.network, torch.from_numpy(z), None if labels is None else torch.from_numpy(labels))


def check_finite(network: nn.Module, folder: Path) -> None:
    """Refuse weights that are not finite, since their output would still be valid uint8 images."""
    if not all(value.isfinite().all() for value in network.state_dict().values()):
        raise UserError(f"the weights of {folder} are not finite: its training has diverged")


def _digest(*files: Path) -> str:
    """Return the sha256 of the files' concatenated contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
