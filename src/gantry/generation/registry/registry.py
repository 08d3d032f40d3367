"""Generators in MLflow's model registry: logged as a model that MLflow serves, registered, and found again."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.core.errors import UserError
from gantry.core.text import brief
from gantry.generation.export.model_card import FILE as CARD
from gantry.generation.export.portable import write_portable
from gantry.generation.registry import champion
from gantry.generation.registry.champion import Measured
from gantry.generation.registry.names import NAME, check_name
from gantry.runs.generator_files import GENERATOR_CONFIG, TRUSTED, WEIGHTS, save_generator
from gantry.runs.generators import ExportedFiles, GeneratorFiles

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


CHAMPION = "champion"  # alias of the version to use
DIGEST, RUN = "sha256", "run_id"  # tags of a version
NEEDS = ("mlflow", "torch", "numpy", "scipy", "pillow")  # of `gantry.generation.registry.served`
MODEL = "generator"  # what MLflow calls the logged model
MODELS = "models:/"  # in front of a logged model's id, where that is a version's source
TOGETHER = 60_000  # ms; versions made within this may be of registrations that are under way at once


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Attributes:
        name, version: MLflow's for it.
        new: whether it was made now; false where these weights were registered already.
        champion: whether the alias is on it.
        text: what the user is told.
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

    Weights that are registered under this name already stay the version they are; what is newly `measured` of them is
    noted there, and counts from then on.

    Args:
        client: of the store.
        name: see `check_name`.
        files: the generator.
        experiment_id: where a model without a run is logged.
        run_id: the MLflow run that trained it.
        measured: how good it is; without, it never becomes champion.
        tags: more for the version, such as variant and dataset.
        card: the model card, a file that goes with it.
        renew: whether the card takes the place of the one that a version of these weights has already.

    Raises:
        UserError: the name is none, the generator cannot be loaded without Gantry, or MLflow does not take it.
    """
    check_name(name)
    noted = {**(tags or {}), **(measured.tags if measured else {})}
    with tempfile.TemporaryDirectory() as temporary, _told(f"register={name}"):
        portable = Path(temporary) / MODEL
        packages = _write(files, portable, Path(temporary) / "raw")
        digest = ExportedFiles(portable, ()).digest()
        held = next((version for version in _versions(client, name) if version.tags.get(DIGEST) == digest), None)
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
    said = f"model {name} version {version}" + ("" if held is None else ", which these weights are already")
    return Registered(name, version, held is None, wins, f"{said}: {why}")


def log_model(
    client: MlflowClient,
    portable: Path,
    experiment_id: str,
    run_id: str | None = None,
    card: Path | None = None,
    packages: Sequence[str] = (),
) -> str:
    """Log a generator as a model that `mlflow.pyfunc.load_model` loads, see `gantry.generation.registry.served`.

    MLflow's own `log_model` would begin a run, or end one, and ask the package index for versions; here nothing
    of the process's MLflow is touched.

    Args:
        portable: as `write_portable` leaves it.
        experiment_id: where a model without a run is logged.
        run_id: the run whose output it is.
        card: see `register`.
        packages: that the network's class imports besides torch.

    Returns:
        The model's id: `models:/<id>` is its address.

    Raises:
        UserError: one of `packages` is not installed as such.
    """
    requirements = _requirements(packages)
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    if run_id is not None:
        experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, MODEL, run_id, model_type="generator")
    status = LoggedModelStatus.FAILED
    try:
        with tempfile.TemporaryDirectory() as temporary:
            drawing, model = Path(temporary) / "drawing.py", Path(temporary) / "model"
            drawing.write_text(drawing_source())
            with _quiet():
                save_model(
                    model,
                    mlflow_model=Model(run_id=run_id, model_id=logged.model_id, model_uuid=logged.model_id),
                    python_model=str(resources.files("gantry.generation.registry") / "served.py"),
                    artifacts={"generator": str(portable), "drawing": str(drawing)},
                    input_example=[{"seed": 0, "n": 4, "format": "png"}],
                    pip_requirements=requirements,
                    metadata={"generator": json.loads((portable / GENERATOR_CONFIG).read_text())},
                )
            if card is not None:
                shutil.copyfile(card, model / CARD)
            client.log_model_artifacts(logged.model_id, str(model))
        if run_id is not None:
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=_step(portable))])
        status = LoggedModelStatus.READY
    finally:
        client.finalize_logged_model(logged.model_id, status)
    return str(logged.model_id)


def drawing_source() -> str:
    """What draws latents and makes pixels of images, as one file that needs numpy, scipy and torch alone."""
    from gantry.core import randomness
    from gantry.data.images import quantise
    from gantry.models import latents

    imported = "from gantry.core.randomness import draws\n"
    return "\n\n".join(
        [inspect.getsource(randomness), inspect.getsource(latents).replace(imported, ""), inspect.getsource(quantise)]
    )


def settle(client: MlflowClient, name: str, version: str, measured: Measured | None) -> tuple[bool, str]:
    """Move the alias to a version if it is better than its champion.

    Registries know no "set it if it is still that one", and of two registrations at once the worse one may be the last
    to write. So whoever writes looks afterwards, and puts the best of what was registered meanwhile in its place:
    whichever writes last, the best stays. Only one that is killed between writing and looking leaves it wrong.

    Returns:
        Whether the version is the champion now, and why.
    """
    holder = _champion(client, name)
    if holder is not None and str(holder.version) == version:
        return True, "it is the champion"
    present = champion.from_tags(holder.tags) if holder else None
    found = champion.verdict(measured, present, str(holder.version) if holder else None)
    if not found.wins or measured is None:
        return False, found.why + _remedy(name, measured, holder)
    best, placed = (version, measured), None
    while placed != best[0]:
        placed = best[0]
        client.set_registered_model_alias(name, CHAMPION, placed)
        best = _best_meanwhile(client, name, best)
    if placed != version:
        return False, f"version {placed} was registered at the same time and is the champion, with {best[1].text}"
    return True, f"the champion: {found.why}"


def _best_meanwhile(client: MlflowClient, name: str, best: tuple[str, Measured]) -> tuple[str, Measured]:
    """The best of `best` and of the latest versions that were measured alike.

    Older ones are left out: somebody may have put another in the place of one that has the better value.
    """
    versions = _versions(client, name)
    now = max(int(one.creation_timestamp) for one in versions)
    for one in versions:
        other = champion.from_tags(one.tags)
        if other is None or now - int(one.creation_timestamp) > TOGETHER:
            continue
        if not other.apart(best[1]) and other.beats(best[1]):
            best = str(one.version), other
    return best


def _remedy(name: str, mine: Measured | None, holder: ModelVersion | None) -> str:
    """What to type where two versions cannot be compared."""
    if mine is None or holder is None:
        return ""
    other = champion.from_tags(holder.tags)
    if other is not None and not mine.apart(other):
        return ""
    run = holder.tags.get(RUN) or "<its run>"
    return (
        f". To compare them, measure both alike and register both again by that, version {holder.version} first: "
        f"python evaluate.py run=[{run},...] and python sample.py run={run} register={name} metric=papers/fid"
    )


def find_model(client: MlflowClient, name: str, cache: Path) -> Path:
    """A folder with the generator.safetensors and generator.json of a registered model's version.

    They are data, see `gantry.runs.generator_files.load_generator`; code that the registry holds beside them is not
    fetched.

    Args:
        name: `models:/<name>@<alias>`, `models:/<name>/<version>`, or `<name>` for its champion, and where it has none
            for its newest version.
        cache: the folder is below it.

    Raises:
        UserError: there is no such model, version or alias, it holds no generator, or MLflow does not answer.
    """
    with _told(f"run={name}"):
        version = _version(client, name)
        origin = hashlib.sha256(f"{client.tracking_uri} {version.source}".encode()).hexdigest()[:12]
        folder = cache / "models" / version.name / f"{version.version}_{origin}"  # another store may have one so called
        if not ((digest := version.tags.get(DIGEST)) and ExportedFiles(folder, ()).is_of(digest)):
            _fetch(client, version, folder)
    return folder


def run_of(client: MlflowClient, name: str) -> str | None:
    """The id of the run that trained what `find_model` finds; None where none is known."""
    with _told(f"run={name}"):
        return _version(client, name).tags.get(RUN) or None


def models(client: MlflowClient) -> list[str]:
    """The names of all registered models."""
    names: list[str] = []
    token: str | None = None
    while token != "":
        page = client.search_registered_models(page_token=token)  # a hundred
        names += [model.name for model in page]
        token = page.token or ""
    return sorted(names)


def _version(client: MlflowClient, wanted: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    plain = wanted.removeprefix("models:/")
    name, mark, which = re.fullmatch(r"([^/@]*)([/@]?)(.*)", plain, re.DOTALL).groups()  # type: ignore[union-attr]
    if not NAME.fullmatch(name) or (mark and not re.fullmatch(r"\d{1,9}" if mark == "/" else r"[\w-]{1,99}", which)):
        raise UserError(f"run={wanted}: write models:/<name>@<alias>, models:/<name>/<version> or a model's name")
    try:
        if mark == "@":
            return client.get_model_version_by_alias(name, which)
        if mark == "/":
            return client.get_model_version(name, which)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    versions = _versions(client, name)
    if not versions:
        known = models(client)
        if name in known:
            raise UserError(f"run={wanted}: the model has no version that is whole")
        raise UserError(f"run={wanted}: no model of that name is registered (there are: {', '.join(known) or 'none'})")
    if mark:
        aliases = client.get_registered_model(name).aliases
        there = [*(f"@{alias}" for alias in aliases), *(f"/{one.version}" for one in versions)]
        raise UserError(f"run={wanted}: there is no such version (there are: {', '.join(there)})")
    return _champion(client, name) or versions[-1]


def _fetch(client: MlflowClient, version: ModelVersion, folder: Path) -> None:
    """Copy the two files to `folder`, each whole or not at all."""
    from mlflow.artifacts import download_artifacts

    folder.mkdir(parents=True, exist_ok=True)
    source = client.get_model_version_download_uri(version.name, version.version)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for file in (WEIGHTS, GENERATOR_CONFIG):
            uri = f"{source.rstrip('/')}/artifacts/{MODEL}/{file}"
            try:
                path = Path(download_artifacts(artifact_uri=uri, dst_path=temporary, tracking_uri=client.tracking_uri))
            except Exception as error:  # each kind of artifact store has its own for what is not there
                raise UserError(
                    f"{version.name} version {version.version} holds no generator of Gantry's, or it cannot be "
                    f"fetched: {brief(error)}"
                ) from error
            path.replace(folder / file)
    if (wanted := version.tags.get(DIGEST)) and not ExportedFiles(folder, ()).is_of(wanted):
        raise UserError(f"{version.name} version {version.version} is damaged: its files are not those registered")


def _write(files: ExportedFiles | GeneratorFiles, folder: Path, raw: Path) -> Sequence[str]:
    """Write the generator to `folder` so that it loads without Gantry; returns the packages it needs besides torch."""
    source = files.folder
    if isinstance(files, GeneratorFiles) and files.raw:
        save_generator(raw, files.load(), json.loads((source / GENERATOR_CONFIG).read_text()), files.step())
        source = raw
    return write_portable(source, folder, files.trusted or (TRUSTED,))


def _requirements(packages: Sequence[str]) -> list[str]:
    """The versions installed here of what the model needs, as an index has them: without `+cpu`."""
    owners = metadata.packages_distributions() if packages else {}  # which reads every file list there is
    names = dict.fromkeys([*NEEDS, *(owners.get(package, [package])[0] for package in packages)])
    try:
        return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"the network's source needs {error.name}, which no installed package is; a module of your own goes along "
            f"where trusted=[...,{error.name}.] names it"
        ) from error


def _step(folder: Path) -> int:
    return ExportedFiles(folder, ()).step() or 0


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """The versions of a model that can be used, the newest last; none where there is no such model."""
    found = [one for one in client.search_model_versions(f"name='{name}'") if one.status == "READY"]
    return sorted(found, key=lambda one: int(one.version))


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


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
    """Make the client's store the process's: MLflow looks models up there, whatever store it is asked to write to."""
    import mlflow

    before: Any = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow's account of what it saves is kept off the terminal."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """The user is told in a line what MLflow, the network on the way to it or the disk did not do."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError(f"{what} failed: {brief(error)}") from error
