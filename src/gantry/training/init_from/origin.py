"""Finds the trained weights that `init_from=` names, and refuses those of other networks, before torch is imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gantry.core.errors import UserError
from gantry.core.files import read_json
from gantry.core.moved import new_name
from gantry.core.text import show
from gantry.generation.find import find_generator
from gantry.runs import checkpoint_files
from gantry.runs.checkpoint_files import Checkpoint
from gantry.runs.find import BEST as BEST_RUN
from gantry.runs.find import LATEST, NoSuchRun, Opener, find, has_generator
from gantry.runs.find_generators import FoundRun, NoGenerator
from gantry.runs.folder import BEST, CONFIG_FILE, EXPORTED, GENERATOR, RUN_FILE
from gantry.runs.generators import GeneratorFiles
from gantry.runs.run_config import run_config
from gantry.runs.sweep_record import SWEEP_FILE
from gantry.runs.tracking.query import configured_store
from gantry.training.resume import Start

OPTION = "init_from"
NETWORKS = ("generator", "discriminator")
ALL, GENERATOR_ALONE = "all", "generator"  # values of init_networks


@dataclass(frozen=True)
class Origin:
    """A file with trained weights.

    Attributes:
        path: a checkpoint, or the folder of an exported generator.
        is_checkpoint: whether it is a checkpoint, which holds both networks.
        classes: the dotted name of each network's class, as far as it is known. It is compared, and never imported.
        run_id: the MLflow run that trained them; None where it is not known.
        model: `models:/<name>/<version>` of a registered generator; None of others.
    """

    path: Path
    is_checkpoint: bool
    classes: Mapping[str, str] = field(default_factory=dict)
    run_id: str | None = None
    model: str | None = None

    @property
    def title(self) -> str:
        """Its name on the terminal."""
        return self.model or show(self.path)

    def networks(self, wanted: str) -> tuple[str, ...]:
        """Return which of `NETWORKS` to load, where `wanted` is the value of `init_networks`."""
        return NETWORKS if self.is_checkpoint and wanted == ALL else NETWORKS[:1]


def origin_of(cfg: DictConfig, folder: Path, start: Start) -> Origin | None:
    """Find the weights that a run begins with; None without `init_from`, and where a checkpoint of its own is resumed.

    Args:
        cfg: the run's config.
        folder: the run's folder.
        start: where the run begins.

    Raises:
        UserError: there are no such weights, or they are of networks of another class.
    """
    word = cfg.get(OPTION)
    if word is None or start.checkpoint is not None:
        return None
    if word in (LATEST, BEST_RUN) and (folder.parent / SWEEP_FILE).exists():
        raise UserError(
            f"{OPTION}={word}: each job of the sweep would take another one; type it on the command line, "
            "which settles it for all of them, or name a run"
        )
    cache = Path(cfg.paths.cache).expanduser()
    origin = find_origin(str(word), lambda: configured_store(cfg.tracking, needed=False), cache)
    check_classes(origin, cfg)
    return origin


def find_origin(word: str, store: Opener, cache: Path) -> Origin:
    """Find trained weights by name.

    Args:
        word: a checkpoint's file; or a name as `gantry.generation.find.find_generator` takes it, where of a run the
            checkpoint of its best step is taken, or else its latest one, or where it has none its exported generator.
        store, cache: see `find_generator`.

    Raises:
        UserError: there are none, or the checkpoint is damaged.
    """
    path = Path(word).expanduser().absolute()
    if path.is_file() and path.suffix not in (".safetensors", ".json"):
        return _of_checkpoint(path)
    name = str(path.parent) if path.is_file() else word
    try:
        found = find_generator(name, BEST, False, (), store, cache, OPTION)
    except NoGenerator:
        folder = find(name, OPTION, has_generator, store).folder
        if folder is None or (checkpoint := _checkpoint_of(folder)) is None:
            raise
        return _of_checkpoint(checkpoint.path)
    except NoSuchRun as error:
        raise NoSuchRun(
            f"{error}; {OPTION} also takes a checkpoint's file and an exported generator's folder"
        ) from None
    if found.run is not None and isinstance(found.files, GeneratorFiles):
        return _of_run(found.run)
    return _of_export(found.files.folder, found.run, found.model)


def _of_run(run: FoundRun) -> Origin:
    checkpoint = None if run.fetched else _checkpoint_of(run.folder)
    return _of_export(run.folder / GENERATOR / BEST, run) if checkpoint is None else _of_checkpoint(checkpoint.path)


def _checkpoint_of(run: Path) -> Checkpoint | None:
    return checkpoint_files.newest(run, checkpoint_files.BEST) or checkpoint_files.newest(run)


def _of_checkpoint(path: Path) -> Origin:
    """Return a checkpoint's file, with what its run's config says of the networks if it lies in its run's folder."""
    known = checkpoint_files.named(path)
    if known is not None and not known.is_sound():
        raise UserError(f"{OPTION}={show(path)}: the file is damaged: its content is not what its name says")
    run = path.parent.parent
    if path.parent.name != checkpoint_files.FOLDER or not (run / CONFIG_FILE).exists():
        return Origin(path, True)
    tree: Any = OmegaConf.to_container(run_config(run), resolve=False)
    parts = {name: _part(_part(tree, "model"), name) for name in NETWORKS}
    classes = {name: target for name, part in parts.items() if isinstance(target := part.get("_target_"), str)}
    return Origin(path, True, classes, (read_json(run / RUN_FILE) or {}).get("run_id"))


def _part(tree: Any, name: str) -> dict[str, Any]:
    """Return a part of a config that may hold anything."""
    part = tree.get(name) if isinstance(tree, dict) else None
    return part if isinstance(part, dict) else {}


def _of_export(folder: Path, run: FoundRun | None, model: str | None = None) -> Origin:
    """Return an exported generator, with the class that its config names."""
    try:
        target = _part({EXPORTED: json.loads((folder / EXPORTED).read_bytes())}, EXPORTED).get("_target_")
    except (OSError, ValueError, RecursionError):
        target = None
    if not isinstance(target, str):
        raise UserError(f"{OPTION}={show(folder)}: {EXPORTED} is missing or damaged: it names no class")
    return Origin(folder, False, {"generator": target}, None if run is None else run.run_id, model)


def check_classes(origin: Origin, cfg: DictConfig) -> None:
    """Refuse weights of networks whose class is not that of the run's.

    Raises:
        UserError: naming both.
    """
    for name in origin.networks(cfg.get("init_networks", ALL)):
        trained, mine = origin.classes.get(name), str(cfg.model[name].get("_target_"))
        if trained is None or new_name(trained) == new_name(mine):
            continue
        instead = f"model.{name}._target_={new_name(trained)} is the same network"
        if name == "discriminator":
            instead += f"; init_networks={GENERATOR_ALONE} leaves the discriminator out"
        raise UserError(
            f"{OPTION}={origin.title}: its {name} is {new_name(trained)}, this run's is {new_name(mine)}, "
            f"whose layers are others ({instead})"
        )
