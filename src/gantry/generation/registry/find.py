"""Finds registered generators, and downloads their weights and configs."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.errors import UserError
from gantry.core.redaction import brief
from gantry.generation.registry.names import NAME, REGISTERED
from gantry.generation.registry.versions import ABSENT, DIGEST, MODEL, RUN, champion_of, mlflow_errors, versions
from gantry.runs.generator_metadata import GENERATOR_CONFIG, WEIGHTS
from gantry.runs.generators import ExportedFiles

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def find_model(client: MlflowClient, name: str, cache: Path, option: str = "run") -> Path:
    """Return a folder with the generator.safetensors and generator.json of a registered model's version.

    They are data, see `gantry.runs.generator_files.load_generator`; code beside them in the registry is not
    downloaded.

    Args:
        name: `models:/<name>@<alias>`, `models:/<name>/<version>`, or `<name>` for its champion, or without a champion
            its newest version.
        cache: the folder is below it.
        option: the option it was given to; messages begin with it.

    Raises:
        UserError: there is no such model, version or alias, it contains no generator, or MLflow does not answer.
    """
    with mlflow_errors(f"{option}={name}"):
        version = _version(client, name, option)
        origin = hashlib.sha256(f"{client.tracking_uri} {version.source}".encode()).hexdigest()[:12]
        folder = cache / "models" / version.name / f"{version.version}_{origin}"  # another store may have the same name
        if not ((digest := version.tags.get(DIGEST)) and ExportedFiles(folder, ()).is_of(digest)):
            _fetch(client, version, folder)
    return folder


def run_of(client: MlflowClient, name: str, option: str = "run") -> str | None:
    """Return the id of the run that trained the generator of `find_model`; None if unknown."""
    with mlflow_errors(f"{option}={name}"):
        return _version(client, name, option).tags.get(RUN) or None


def numbered(client: MlflowClient, name: str, option: str = "run") -> str:
    """Return the name of `find_model` with the version that it stands for now, `models:/<name>/<version>`."""
    with mlflow_errors(f"{option}={name}"):
        version = _version(client, name, option)
    return f"{REGISTERED}{version.name}/{version.version}"


def models(client: MlflowClient) -> list[str]:
    """Return the names of all registered models."""
    names: list[str] = []
    token: str | None = None
    while token != "":
        page = client.search_registered_models(page_token=token)  # 100 models a page
        names += [model.name for model in page]
        token = page.token or ""
    return sorted(names)


def _version(client: MlflowClient, wanted: str, option: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    plain = wanted.removeprefix(REGISTERED)
    name, mark, which = re.fullmatch(r"([^/@]*)([/@]?)(.*)", plain, re.DOTALL).groups()  # type: ignore[union-attr]
    if not NAME.fullmatch(name) or (mark and not re.fullmatch(r"\d{1,9}" if mark == "/" else r"[\w-]{1,99}", which)):
        raise UserError(f"{option}={wanted}: write models:/<name>@<alias>, models:/<name>/<version> or a model's name")
    try:
        if mark == "@":
            return client.get_model_version_by_alias(name, which)
        if mark == "/":
            return client.get_model_version(name, which)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
    held = versions(client, name)
    if not held:
        names = models(client)
        if name in names:
            raise UserError(f"{option}={wanted}: the model has no version that is whole")
        raise UserError(
            f"{option}={wanted}: no model of that name is registered (there are: {', '.join(names) or 'none'})"
        )
    if mark:
        aliases = client.get_registered_model(name).aliases
        there = [*(f"@{alias}" for alias in aliases), *(f"/{one.version}" for one in held)]
        raise UserError(f"{option}={wanted}: there is no such version (there are: {', '.join(there)})")
    return champion_of(client, name) or held[-1]


def _fetch(client: MlflowClient, version: ModelVersion, folder: Path) -> None:
    """Copy the two files to `folder`, each atomically."""
    from mlflow.artifacts import download_artifacts

    folder.mkdir(parents=True, exist_ok=True)
    source = client.get_model_version_download_uri(version.name, version.version)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for file in (WEIGHTS, GENERATOR_CONFIG):
            uri = f"{source.rstrip('/')}/artifacts/{MODEL}/{file}"
            try:
                path = Path(download_artifacts(artifact_uri=uri, dst_path=temporary, tracking_uri=client.tracking_uri))
            except Exception as error:  # each kind of artifact store raises its own error for a missing file
                raise UserError(
                    f"{version.name} version {version.version} holds no generator of Gantry's, or it cannot be "
                    f"fetched: {brief(error)}"
                ) from error
            path.replace(folder / file)
    if (wanted := version.tags.get(DIGEST)) and not ExportedFiles(folder, ()).is_of(wanted):
        raise UserError(f"{version.name} version {version.version} is damaged: its files are not those registered")
