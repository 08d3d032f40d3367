"""Registers generators as versions of a model in MLflow's registry."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.data.alpha import RGBA
from gantry.generation.export.portable import write_portable
from gantry.generation.registry import champion
from gantry.generation.registry.alias import settle
from gantry.generation.registry.champion import Measured
from gantry.generation.registry.logged_model import log_model
from gantry.generation.registry.names import check_name
from gantry.generation.registry.versions import ALPHA, DIGEST, MODEL, RUN, mlflow_errors, versions
from gantry.runs.generator_files import TRUSTED, save_generator
from gantry.runs.generator_metadata import GENERATOR_CONFIG
from gantry.runs.generators import ExportedFiles, GeneratorFiles

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODELS = "models:/"  # prefix of a logged model's id as the source of a version


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Attributes:
        name, version: in MLflow.
        new: True if it was created now; False if these weights were registered already.
        champion: True if it has the alias.
        text: the message for the user.
    """

    name: str
    version: str
    new: bool
    champion: bool
    text: str


def register(
    client: MlflowClient,
    name: str,
    files: ExportedFiles | GeneratorFiles,
    experiment_id: str,
    run_id: str | None = None,
    measured: Measured | None = None,
    tags: Mapping[str, str] | None = None,
    card: Path | None = None,
    renew: bool = False,
) -> Registered:
    """Log a generator as a model and make it a version of the registered model `name`, its champion if it is the best.

    Weights that are already registered under this name keep their version; a new measurement in `measured` is stored
    there and used from then on.

    Args:
        client: of the store.
        name: see `check_name`.
        files: the generator.
        experiment_id: the experiment of a model without a run.
        run_id: the MLflow run that trained it.
        measured: its quality; None: it never becomes champion.
        tags: further tags of the version, such as variant and dataset.
        card: the file of the model card.
        renew: replace the card of an existing version of these weights.

    Raises:
        UserError: the name is invalid, the generator cannot be loaded without Gantry, or MLflow refuses it.
    """
    check_name(name)
    noted = {**(tags or {}), **(measured.tags if measured else {})}
    with tempfile.TemporaryDirectory() as temporary, mlflow_errors(f"register={name}"):
        portable = Path(temporary) / MODEL
        packages = _write(files, portable, Path(temporary) / "raw")
        shape = json.loads((portable / GENERATOR_CONFIG).read_bytes()).get("image_shape") or [0]
        noted |= {ALPHA: "premultiplied"} if shape[0] == RGBA else {}
        digest = ExportedFiles(portable, ()).digest()
        held = next((version for version in versions(client, name) if version.tags.get(DIGEST) == digest), None)
        if held is None:
            model_id, made_by = log_model(client, portable, experiment_id, run_id, card, packages), run_id or ""
            version = _new_version(client, name, model_id, run_id, {**noted, DIGEST: digest, RUN: made_by})
        else:
            version = str(held.version)
            for key, value in noted.items():
                client.set_model_version_tag(name, version, key, value)
            if card is not None and renew:
                client.log_model_artifact(str(held.source).removeprefix(MODELS), str(card))
            measured = measured or champion.from_tags(held.tags)
        wins, why = settle(client, name, version, measured)
    text = f"model {name} version {version}" + ("" if held is None else ", which these weights are already")
    return Registered(name, version, held is None, wins, f"{text}: {why}")


def _write(files: ExportedFiles | GeneratorFiles, folder: Path, raw: Path) -> Sequence[str]:
    """Write the generator to `folder` so that it loads without Gantry; returns the packages it needs besides torch."""
    source = files.folder
    if isinstance(files, GeneratorFiles) and files.raw:
        save_generator(
            raw, files.load(), json.loads((source / GENERATOR_CONFIG).read_text()), files.step(), files.classes()
        )
        source = raw
    return write_portable(source, folder, files.trusted or (TRUSTED,))


def _new_version(client: MlflowClient, name: str, model_id: str, run_id: str | None, tags: Mapping[str, str]) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    with _used_by_all(client):
        made = client.create_model_version(name, f"{MODELS}{model_id}", run_id, dict(tags), model_id=model_id)
    return str(made.version)


@contextmanager
def _used_by_all(client: MlflowClient) -> Iterator[None]:
    """Make the client's store that of the process, in which MLflow looks up models whatever store it writes to."""
    import mlflow

    before: Any = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
