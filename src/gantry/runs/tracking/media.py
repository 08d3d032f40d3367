"""Sends images and data sets in the form that MLflow's pages display."""

from __future__ import annotations

import json
import re
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.runs.tracking.tracker import DatasetInfo

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from mlflow import MlflowClient
    from PIL.PngImagePlugin import PngInfo


DIGEST_LENGTH = 36
SHOWN = "mlflow.loggedImages"  # tag that makes MLflow's page offer image charts
KEY = re.compile(r"[\w\-./ ]+", re.ASCII)


def send_image(client: MlflowClient, run_id: str, image: np.ndarray | Path, key: str, step: int, time: int) -> None:
    """Log an image like `MlflowClient.log_image`, but idempotently: a second call writes the same two files.

    MLflow draws a random name each time, so that an image would appear twice where an answer was lost; here the name
    is a function of run, key, step and time.

    Args:
        image: a PNG file, or uint8 (height, width, 1 or 3).
        time: when it was logged, in ms since 1970.

    Raises:
        ValueError: MLflow does not accept the key.
    """
    from mlflow.tracking.multimedia import compress_image_size

    if not KEY.fullmatch(key):
        raise ValueError(f"the key of an image may hold letters, digits and _-./ only: {key}")
    same = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id} {key} {step} {time}")
    name = f"{key.replace('/', '~')}+step+{step}+timestamp+{time}+{same}"
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / f"{name}.png", Path(folder) / f"{name}+compressed.webp"
        with _opened(image) as opened:
            opened.save(whole, pnginfo=_text(opened))
            compress_image_size(opened).save(small)
        for file in (whole, small):
            client.log_artifact(run_id, str(file), "images")
    client.set_tag(run_id, SHOWN, "True", synchronous=True)


def _text(image: PIL.Image.Image) -> PngInfo:
    """The text of a PNG file, which PIL reads and does not write again."""
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    for key, value in getattr(image, "text", {}).items():
        said.add_text(key, value)
    return said


def _opened(image: np.ndarray | Path) -> PIL.Image.Image:
    import PIL.Image

    if isinstance(image, Path):
        return PIL.Image.open(image)
    return PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def send_dataset(client: MlflowClient, run_id: str, info: DatasetInfo) -> None:
    """Log a data set as the run's input; MLflow identifies it by name and digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    height, width, channels = info.shape
    web = info.source.startswith(("http://", "https://"))
    features = [
        {"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, height, width, channels]}},
    ]
    profile = {
        "num_rows": info.images,  # the UI shows num_rows and num_elements
        "num_elements": info.images * height * width * channels,
        "split": info.split,
        "classes": info.classes,
    }
    dataset = Dataset(
        name=info.name,
        digest=info.digest[:DIGEST_LENGTH],
        source_type="http" if web else "local",
        source=json.dumps({"url" if web else "uri": info.source}),
        schema=json.dumps({"mlflow_tensorspec": {"features": json.dumps(features), "targets": None}}),
        profile=json.dumps(profile),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", info.split)])])
