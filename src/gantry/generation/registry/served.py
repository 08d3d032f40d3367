"""The model that MLflow loads and serves: images of a trained generator, asked for by seed.

MLflow keeps a copy of this file beside the generator and runs it wherever the model is loaded: it needs MLflow, torch,
numpy, scipy and Pillow, and nothing of Gantry. A request, to `mlflow models serve -m models:/<name>@champion -p 5001`
or, as the value of "inputs", to `mlflow.pyfunc.load_model(...).predict`:

    curl -s localhost:5001/invocations -H 'Content-Type: application/json' \\
        -d '{"inputs": [{"seed": 0, "n": 4, "format": "png", "truncation": 0.7}]}'

    seed        whole number, 0 to 2**63 - 1; image i of a seed is always the same, whatever `n` is
    n           how many images: 1 (the default) to 256, of all entries of a request together
    format      "png" (the default): each image as a PNG file; "grid": one PNG file with rows of eight images
    truncation  above 0: latents are cut off there (see `gantry.models.latents`); left out, they are not

    {"predictions": [{"seed": 0, "n": 4, "format": "png", "images": ["iVBORw0KGgo...", ...]}]}

Each of `images` is a PNG file in base64, greyscale, RGB or RGBA, of the pixels that `python sample.py seed=...
accelerator=cpu` writes. A request that is none is answered with status 400, or 415 for its content type, and the
reason. (Without any content type MLflow answers 500.)
"""

import base64
import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image
from pydantic import BaseModel, Field, field_validator

LIMIT = 256  # images in an answer, which bounds its memory
FORMATS = ("png", "grid")
ROW = 8  # images in a row of the grid
GENERATOR, DRAWING = "generator", "drawing"  # artifacts: what Gantry exports, and the source of what draws latents
LATENTS = "gantry.models.latents"  # in it


class Request(BaseModel, extra="forbid"):
    """Images of one seed; what is null takes its default."""

    seed: int = Field(ge=0, lt=2**63)
    n: int | None = Field(default=None, ge=1, le=LIMIT)
    format: str | None = None
    truncation: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @field_validator("format")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in FORMATS:
            raise ValueError(f"there is no format {value[:40]!r} (valid: {', '.join(FORMATS)})")
        return value


class Answer(BaseModel):
    """The answer to a request: each image, or the grid of all, as a PNG file in base64."""

    seed: int
    n: int
    format: str
    images: list[str]


class Served(PythonModel):
    """A generator on the processor; any number of threads may ask at once."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(context.artifacts[GENERATOR])
        loader = _module(folder / "generator.py")
        self._latents = loader.imported(Path(context.artifacts[DRAWING]), LATENTS)
        self._quantise, self._straighten = loader.quantise, loader.straighten
        self._z_dim = json.loads((folder / "generator.json").read_bytes())["z_dim"]
        self._network = loader.load(folder)

    def predict(self, model_input: list[Request]) -> list[Answer]:  # type: ignore[override]
        """An answer for each request.

        Raises:
            MlflowException: nothing is asked for, or more than a request may.
        """
        total = sum(request.n or 1 for request in model_input)
        if not 1 <= total <= LIMIT:
            raise MlflowException.invalid_parameter_value(
                f"inputs ask for {total} images together; a request is for 1 to {LIMIT}"
            )
        return [self._answer(request) for request in model_input]

    def _answer(self, request: Request) -> Answer:
        n, form = request.n or 1, request.format or FORMATS[0]
        images = self._images(request.seed, n, request.truncation)
        pictures = [_grid(images)] if form == "grid" else images
        return Answer(seed=request.seed, n=n, format=form, images=[_png(picture) for picture in pictures])

    def _images(self, seed: int, n: int, truncation: float | None) -> np.ndarray:
        """uint8 (n, H, W, C)."""
        tile, tiles = self._latents.TILE, []
        for first in range(0, n, tile):
            z = torch.from_numpy(self._latents.stream(seed, first, tile, self._z_dim, truncation))
            with torch.inference_mode():
                tiles.append(self._straighten(self._quantise(self._network(z))).permute(0, 2, 3, 1).numpy())
        return np.concatenate(tiles)[:n]


def _module(path: Path) -> ModuleType:
    """The module in a file, under no name that another could have."""
    spec = importlib.util.spec_from_file_location(f"served_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _grid(images: np.ndarray) -> np.ndarray:
    """(n, H, W, C) as one picture, black (or transparent, where it has alpha) where the last row has no image."""
    rows = -(-len(images) // ROW)
    height, width, channels = images.shape[1:]
    columns = min(len(images), ROW)
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[: len(images)] = images
    tiles = sheet.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(tiles).reshape(rows * height, columns * width, channels)


def _png(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


set_model(Served())
