"""Reads what the files of an exported generator say of it, without torch and without loading the weights."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from gantry.core.errors import UserError
from gantry.models.labels import Classes

WEIGHTS, GENERATOR_CONFIG = "generator.safetensors", "generator.json"
LARGEST_CONFIG = 2**20  # bytes


def exported_step(folder: Path) -> int | None:
    """Return the generator step that `save_generator` wrote; None in files of older versions, which have none.

    Raises:
        UserError: the weights are missing or damaged.
    """
    step = _about(folder).get("step")
    try:
        return None if step is None else int(step)
    except ValueError as error:
        raise unfit(folder, str(error)) from error


def exported_classes(folder: Path) -> Classes | None:
    """Return the classes that `save_generator` wrote of a network that takes labels; None where it takes none.

    Raises:
        UserError: the config counts classes, and the weights are missing or damaged, or do not name them.
    """
    count = _count(folder)
    try:
        about = _about(folder)
    except UserError:
        if count is None:  # `load_generator` says what is wrong, of the config first
            return None
        raise
    if count is None and "classes" not in about:
        return None
    try:
        names, shares = json.loads(about["classes"]), json.loads(about["class_shares"])
        found = Classes(tuple(map(str, names)), tuple(map(float, shares)))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise unfit(folder, f"they do not name the classes: {type(error).__name__}: {error}") from error
    wanted = len(found) if count is None else count
    if not 1 <= len(found) == len(found.shares) == wanted:
        raise unfit(folder, f"they name {len(found)} classes with {len(found.shares)} shares, not {wanted}")
    return found


def _count(folder: Path) -> object:
    """Return the number of classes in the config; None where there is none, or no config that can be loaded."""
    path = folder / GENERATOR_CONFIG
    try:
        config = json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST_CONFIG else None
    except (OSError, ValueError, RecursionError):
        return None
    return config.get("n_classes") if isinstance(config, dict) else None


def _about(folder: Path) -> dict[str, str]:
    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise unfit(folder, " ".join(str(error).split())) from error


def unfit(folder: Path, why: str) -> UserError:
    """Return the error of weights that cannot be used."""
    return UserError(f"{folder / WEIGHTS} is missing, damaged or of another network: {why}")
