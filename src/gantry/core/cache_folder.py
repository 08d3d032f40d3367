"""Finds the folder of what can be computed or downloaded again, where nothing names it."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import OmegaConf

DEFAULT = "${gantry.cache:}"  # the value of `paths.cache` in a config


def cache_folder() -> str:
    """Return `$GANTRY_CACHE`, or else `.cache/gantry` in the home folder, or else `gantry` in `$XDG_CACHE_HOME`.

    Where `HOME` is not set, as in a service or a container, the home folder is the one that the system knows. A
    variable that is set to nothing counts as not set.

    Raises:
        ValueError: there is none of these.
    """
    if given := os.environ.get("GANTRY_CACHE"):
        return given
    if home := os.environ.get("HOME"):
        return f"{home}/.cache/gantry"
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return f"{caches}/gantry"
    unset = os.environ.pop("HOME", None)  # an empty one would be taken for the home folder
    try:
        return str(Path.home() / ".cache" / "gantry")
    except RuntimeError:
        raise ValueError(
            "there is no HOME, and the system knows no home folder of this user; the environment variable "
            "GANTRY_CACHE=/path or paths.cache=/path names the folder"
        ) from None
    finally:
        if unset is not None:
            os.environ["HOME"] = unset


OmegaConf.register_new_resolver("gantry.cache", cache_folder, replace=True)
