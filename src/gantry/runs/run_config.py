"""Reads the config of a run; the file may be untrusted, so it may name trusted code only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from gantry.core.config.trust import defined_in
from gantry.core.errors import UserError
from gantry.runs.folder import CONFIG_FILE


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
    return node


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested dicts and lists with their dotted keys."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if children is None:
        yield key, node
        return
    for name, child in children:
        yield from _leaves(child, f"{key}.{name}".lstrip("."))
