"""Reads the config of a run; the file may be untrusted, so it may name trusted code only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gantry.core.config.places import PATHS, Home
from gantry.core.config.trust import defined_in
from gantry.core.errors import UserError
from gantry.runs.folder import CONFIG_FILE, HYDRA_CONFIG, STARTED_IN, TAGS_FILE, read_values
from gantry.runs.tracking.status import FOLDER


def run_config(folder: Path) -> DictConfig:
    """Read the config of the run in `folder`.

    Raises:
        UserError: it cannot be read, or is not the config of a run.
    """
    path = folder / CONFIG_FILE
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, DictConfig) or "data" not in loaded:
        raise UserError(f"{path} is not a run's config: it names no data")
    return loaded


def home_of(folder: Path) -> Home | None:
    """Return the folder in which the run in `folder` was started; None where it is not known, or not on this machine.

    Where the run's folder has moved, and its place below that folder is the same, the folder has moved too.
    """
    tags = read_values(folder / TAGS_FILE)
    then = Path(tags.get(STARTED_IN) or _started_in(folder))
    if not then.is_absolute():
        return None
    recorded, here = Path(tags.get(FOLDER, "")), folder.resolve()
    below = recorded.parts[len(then.parts) :] if recorded.is_relative_to(then) else ()
    if below and here != recorded.resolve() and here.parts[-len(below) :] == below:
        return Home(then, Path(*here.parts[: -len(below)]))
    return Home(then, then) if then.is_dir() else None


def _started_in(folder: Path) -> str:
    """Return the working directory in Hydra's own record, for runs of earlier versions; "" where there is none."""
    try:
        return str(OmegaConf.select(OmegaConf.load(folder / HYDRA_CONFIG), "hydra.runtime.cwd") or "")
    except (YAMLError, OSError, ValueError, OmegaConfBaseException):
        return ""


def data_config(folder: Path, trusted: Sequence[str]) -> dict[str, Any]:
    """Return the part of a run's config that creates its training data, as plain values.

    Args:
        folder: the run's.
        trusted: see `GeneratorFiles`; the data's function must be defined there, or in gantry.data.

    Raises:
        UserError: it is not, or the config cannot be read or reads this machine's environment variables.
    """
    node: Any = OmegaConf.to_container(run_config(folder), resolve=False)["data"]  # type: ignore[index, call-overload]
    path = folder / CONFIG_FILE
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise UserError(f"{path} is not a run's config: its data has no _target_")
    for key, value in _leaves(node):
        if isinstance(value, str) and "${" in value:
            raise UserError(f"{path}: data.{key} is {value}, which a finished run's config spells out; data=... tells")
        if key.rpartition(".")[2] == "_target_" and not defined_in(str(value), ("gantry.data", *trusted)):
            known = ", ".join(("gantry.data.", *trusted))
            raise UserError(
                f"{path} names {value} as what makes its data; trusted is what is defined in {known}. If you "
                f"trust its code: trusted=[{str(value).partition('.')[0]}.]; data=... measures against other data"
            )
    return _placed(node, home_of(folder))


def _placed(node: dict[str, Any], home: Home | None) -> dict[str, Any]:
    """Return a run's data config with the paths of today among its declared options."""
    if home is None:
        return node
    return {
        key: home.path(value) if f"data.{key}" in PATHS and isinstance(value, str) and value else value
        for key, value in node.items()
    }


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested dicts and lists with their dotted keys."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if children is None:
        yield key, node
        return
    for name, child in children:
        yield from _leaves(child, f"{key}.{name}".lstrip("."))
