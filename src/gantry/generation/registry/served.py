"""The model that MLflow loads and serves: images of a trained generator, asked for by seed.

MLflow keeps a copy of this file beside the generator and runs it wherever the model is loaded: it needs MLflow, torch,
numpy, scipy and Pillow, and nothing of Gantry. A request, to `mlflow models serve -m models:/<name>@champion -p 5001`
or, as the value of "inputs", to `mlflow.pyfunc.load_model(...).predict`:

    curl -s localhost:5001/invocations -H 'Content-Type: application/json' \\
        -d '{"inputs": [{"seed": 0, "n": 4, "format": "png", "truncation": 0.7}]}'

    seed        whole number, 0 to 2**63 - 1; it has to be given; image i of a seed is always the same, whatever `n` is
    n           how many images: 1 (the default) to 256, of all entries of a request together
    format      "png" (the default): each image as a PNG file; "grid": one PNG file with rows of eight images
    truncation  above 0: latents are cut off there (see `gantry.models.latents`); left out, they are not
    class       of a generator that takes labels: the class of all images, by name or number; left out, the classes are
                drawn as often as in the training data. Of others it is refused

    {"predictions": [{"seed": 0, "n": 4, "format": "png", "images": ["iVBORw0KGgo...", ...]}]}

Each of `images` is a PNG file in base64, greyscale, RGB or RGBA, of the pixels that `python sample.py seed=...
accelerator=cpu` writes. Of a generator that takes labels the answer has `classes` too, the name of each image's class.
A request that is none is answered with status 400, or 415 for its content type, and the reason, in one sentence that
names the entry, the field and what it may be. (Without any content type MLflow answers 500.)
"""

import base64
import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

LIMIT = 256  # images in an answer, which bounds its memory
FORMATS = ("png", "grid")
ROW = 8  # images in a row of the grid
GENERATOR, DRAWING = "generator", "drawing"  # artifacts: what Gantry exports, and the source of what draws latents
LATENTS, ASKED = "gantry.models.latents", "gantry.generation.classes"  # in it
MAY_BE = {  # what each field of a request may be
    "seed": f"a whole number from 0 to {2**63 - 1}",
    "n": f"a whole number from 1 to {LIMIT}",
    "format": " or ".join(FORMATS),
    "truncation": "a number above 0",
    "class": "the name or the number of a class",
}
OF_CLASS = create_model("OfClass", **{"class": (str | None, None)})  # type: ignore[call-overload]  # a keyword of Python's


class Refused(MlflowException):
    """A request's own error, answered with status 400.

    Its message stays: MLflow's server would put the whole request before it.
    """

    def __init__(self, message: str) -> None:
        self._said = message
        super().__init__(message, INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        return self._said

    @message.setter
    def message(self, _: str) -> None: ...


class Request(OF_CLASS):  # type: ignore[misc,valid-type]
    """Images of one seed; what is null takes its default.

    A wrong one is made too, and `predict` refuses it: MLflow would wrap an error that is raised here into pages.
    """

    model_config = ConfigDict(extra="forbid")
    _wrong: str | None = PrivateAttr(None)

    seed: int = Field(ge=0, lt=2**63)
    n: int | None = Field(default=None, ge=1, le=LIMIT)
    format: str | None = None
    truncation: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _noted(cls, value: Any, handler: ModelWrapValidatorHandler["Request"]) -> "Request":
        try:
            return handler(value)
        except ValidationError as error:
            made = handler({"seed": 0})
            made._wrong = _sentence(error)
            return made

    @field_validator("format")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in FORMATS:  # a Literal MLflow does not take
            raise ValueError
        return value

    @field_validator("class", mode="before")
    @classmethod
    def _written(cls, value: object) -> object:
        return str(value) if type(value) is int else value


class Answer(BaseModel):
    """The answer to a request: each image, or the grid of all, as a PNG file in base64."""

    seed: int
    n: int
    format: str
    images: list[str]
    classes: list[str] | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, dumped: Any) -> dict[str, Any]:
        return {name: value for name, value in dumped(self).items() if name != "classes" or value is not None}


class Served(PythonModel):
    """A generator on the processor; any number of threads may ask at once."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(context.artifacts[GENERATOR])
        loader = _module(folder / "generator.py")
        drawing = Path(context.artifacts[DRAWING])
        self._latents, self._asked = loader.imported(drawing, LATENTS), loader.imported(drawing, ASKED)
        self._quantise, self._straighten = loader.quantise, loader.straighten
        self._z_dim = json.loads((folder / "generator.json").read_bytes())["z_dim"]
        self._network = loader.load(folder)
        said = loader.about(folder)
        self._classes = None
        if names := loader.classes(folder):
            self._classes = self._asked.Classes(tuple(names), tuple(json.loads(said["class_shares"])))

    def predict(self, model_input: list[Request]) -> list[Answer]:  # type: ignore[override]
        """An answer for each request.

        Raises:
            Refused: nothing is asked for, more than a request may, or what there is not; names what is valid.
        """
        for number, request in enumerate(model_input):
            if request._wrong is not None:
                raise Refused(f"inputs[{number}].{request._wrong}")
        total = sum(request.n or 1 for request in model_input)
        if not 1 <= total <= LIMIT:
            raise Refused(f"inputs ask for {total} images together; a request is for 1 to {LIMIT}")
        drawn = [self._labels(getattr(request, "class")) for request in model_input]  # all are checked first
        return [self._answer(request, labels) for request, labels in zip(model_input, drawn, strict=True)]

    def _labels(self, asked: str | None) -> Any:
        """The source of the labels of a request's images; None where the generator takes none."""
        if self._classes is None:
            if asked is not None:
                raise Refused("class: this generator takes no labels; leave it out")
            return None
        if asked is None:
            return self._asked.LabelSource(self._classes.shares)
        try:
            return self._asked.in_turn(self._classes, [self._asked.label_of(self._classes, asked)])
        except self._asked.UserError as error:
            raise Refused(str(error)) from error

    def _answer(self, request: Request, labels: Any) -> Answer:
        n, form = request.n or 1, request.format or FORMATS[0]
        images = self._images(request.seed, n, request.truncation, labels)
        pictures = [_grid(images)] if form == "grid" else images
        made = Answer(seed=request.seed, n=n, format=form, images=[_png(picture) for picture in pictures])
        if self._classes is not None:
            made.classes = [self._classes.names[label] for label in labels(request.seed, 0, n)]
        return made

    def _images(self, seed: int, n: int, truncation: float | None, labels: Any) -> np.ndarray:
        """uint8 (n, H, W, C)."""
        tile, tiles = self._latents.TILE, []
        for first in range(0, n, tile):
            inputs = [self._latents.stream(seed, first, tile, self._z_dim, truncation)]
            inputs += [] if labels is None else [labels(seed, first, tile)]
            with torch.inference_mode():
                images = self._network(*map(torch.from_numpy, inputs))
                tiles.append(self._straighten(self._quantise(images)).permute(0, 2, 3, 1).numpy())
        return np.concatenate(tiles)[:n]


def _sentence(error: ValidationError) -> str:
    """What is wrong with the first wrong field of a request."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    if first["type"] == "missing":
        return f"{field}: has to be given: {MAY_BE[field]}"
    if field not in MAY_BE:
        return f"{field[:40]}: there is no such field (valid: {', '.join(MAY_BE)})"
    value = repr(first["input"])
    return f"{field}: must be {MAY_BE[field]}, not {value if len(value) <= 40 else f'{value[:40]}...'}"


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
