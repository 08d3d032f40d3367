"""What tests of the registry share: generators for it, what they make, and a registry in memory that may be raced."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from sharing_helpers import Z_DIM, small

from gantry.generators import ExportedFiles
from gantry.sampling import Tiles
from gantry.sharing.champion import Measured

TRUSTED = ("gantry.networks.",)
RULER = {"data": "digits", "n_generated": 2000, "n_real": 1797}


def fid(value: float, **ruler: object) -> Measured:
    """A FID, measured as all others are but for `ruler`."""
    return Measured("fid", value, {**RULER, **ruler})


def generator(folder: Path, seed: int = 0, name: str = "dcgan") -> ExportedFiles:
    """A small generator, of other weights for each seed."""
    torch.manual_seed(seed)
    small(folder, name)
    return ExportedFiles(folder, TRUSTED)


def drawn(files: ExportedFiles, seed: int, n: int, truncation: float | None = None) -> np.ndarray:
    """Gantry's own images, uint8 (n, H, W, C)."""
    return Tiles(files.load(), Z_DIM, seed, truncation).first(n).permute(0, 2, 3, 1).numpy()


def pixels(text: str) -> np.ndarray:
    """A picture in an answer, uint8 (H, W, C)."""
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    return image if image.ndim == 3 else image[..., None]


@dataclass
class Registry:
    """One registered model as MLflow's client shows it; `before` is called ahead of every call, with its number."""

    versions: list[dict[str, str]] = field(default_factory=list)
    alias: str | None = None
    before: Callable[[int], None] = lambda number: None
    calls: int = 0

    def add(self, measured: Measured) -> str:
        self.versions.append(measured.tags)
        return str(len(self.versions))

    def get_model_version_by_alias(self, name: str, alias: str) -> SimpleNamespace:
        from mlflow.exceptions import MlflowException

        self._called()
        if self.alias is None:
            raise MlflowException.invalid_parameter_value("no such alias")
        return self._shown(int(self.alias))

    def search_model_versions(self, condition: str) -> list[SimpleNamespace]:
        self._called()
        return [self._shown(number) for number in range(1, len(self.versions) + 1)]

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self._called()
        self.alias = version

    def _called(self) -> None:
        self.calls += 1
        self.before(self.calls)

    def _shown(self, number: int) -> SimpleNamespace:
        tags = self.versions[number - 1]
        return SimpleNamespace(version=str(number), tags=tags, status="READY", creation_timestamp=0)
