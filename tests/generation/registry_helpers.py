"""What tests of the registry share: generators for it, what they make, and a registry in memory that may be raced."""

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from sharing_helpers import Z_DIM, small

from gantry.generation.registry.champion import Measured
from gantry.models.sampling import Tiles
from gantry.runs.generators import ExportedFiles

TRUSTED = ("gantry.models.networks.",)
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


@contextmanager
def process(command: str, folder: Path, health: str, **environment: str) -> Iterator[str]:
    """A server of MLflow's until the block ends, `{port}` filled in; the address it answers at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, "-m", *command.format(port=port).split()]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls uvicorn by name
    env = os.environ | {"PATH": path, "NO_PROXY": "127.0.0.1", **environment}
    address = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    with log.open("wb") as file:
        started = subprocess.Popen(words, cwd=folder, env=env, stdout=file, stderr=file, start_new_session=True)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address + health, timeout=5).close()
                break
            except OSError:
                assert started.poll() is None, log.read_text()
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait(30)
    for _ in range(100):  # its own child may take longer
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError(f"{command} still answers")
