"""Logs a generator as a model that MLflow loads and serves without Gantry."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.errors import UserError
from gantry.generation import classes
from gantry.generation.export.model_card import FILE as CARD
from gantry.generation.export.portable import OWN, copy_source
from gantry.generation.registry.versions import MODEL
from gantry.runs.generator_metadata import GENERATOR_CONFIG
from gantry.runs.generators import ExportedFiles

if TYPE_CHECKING:
    from mlflow import MlflowClient

NEEDS = ("mlflow", "torch", "numpy", "scipy", "pillow")  # packages that served.py imports
SERVED = Path(__file__).with_name("served.py")


def log_model(
    client: MlflowClient,
    portable: Path,
    experiment_id: str,
    run_id: str | None = None,
    card: Path | None = None,
    packages: Sequence[str] = (),
) -> str:
    """Log a generator as a model that `mlflow.pyfunc.load_model` loads, see `gantry.generation.registry.served`.

    MLflow's own `log_model` would start or end a run, and ask the package index for versions; this function does not
    change the process's MLflow state.

    Args:
        portable: a folder of `write_portable`.
        experiment_id: the experiment of a model without a run.
        run_id: the run that trained it.
        card: see `register`.
        packages: that the network's class imports besides torch.

    Returns:
        The model's id: `models:/<id>` is its address.

    Raises:
        UserError: one of `packages` does not belong to an installed distribution.
    """
    requirements = _requirements(packages)
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    if run_id is not None:
        experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, MODEL, run_id, model_type="generator")
    model_id, status = str(logged.model_id), LoggedModelStatus.FAILED
    try:
        with tempfile.TemporaryDirectory() as temporary:
            model = _saved(Path(temporary), portable, run_id, model_id, requirements)
            if card is not None:
                shutil.copyfile(card, model / CARD)
            client.log_model_artifacts(model_id, str(model))
        if run_id is not None:
            client.log_outputs(run_id, [LoggedModelOutput(model_id, step=ExportedFiles(portable, ()).step() or 0)])
        status = LoggedModelStatus.READY
    finally:
        client.finalize_logged_model(model_id, status)
    return model_id


def _saved(folder: Path, portable: Path, run_id: str | None, model_id: str, requirements: list[str]) -> Path:
    """Write the model in MLflow's format to `folder`: served.py, the generator, and the source of `ASKED`."""
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    drawing, model = folder / "drawing", folder / "model"
    copy_source(classes.__name__, {OWN}, drawing)  # which imports `LATENTS`
    with _quiet():
        save_model(
            model,
            mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
            python_model=str(SERVED),
            artifacts={"generator": str(portable), "drawing": str(drawing)},
            input_example=[{"seed": 0, "n": 4, "format": "png"}],
            pip_requirements=requirements,
            metadata={"generator": json.loads((portable / GENERATOR_CONFIG).read_text())},
        )
    return model


def _requirements(packages: Sequence[str]) -> list[str]:
    """Return the installed versions of the model's packages as in a package index, without `+cpu`."""
    owners = metadata.packages_distributions() if packages else {}  # slow: it reads the file lists of all packages
    names = dict.fromkeys([*NEEDS, *(owners.get(package, [package])[0] for package in packages)])
    try:
        return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"the network's source needs {error.name}, which no installed package is; a module of your own goes along "
            f"where trusted=[...,{error.name}.] names it"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress MLflow's output while it saves."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
