"""Finds a sweep's folder by what a user may call it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gantry.errors import UserError
from gantry.launch.record import SWEEP_FILE, read_json

SHOWN = 5  # sweeps named where there is none of that name


def find_sweep(name: str, arguments: Sequence[str] = ()) -> Path:
    """The folder of the sweep called `name`.

    Args:
        name: its folder, or its run's id or name in MLflow.
        arguments: the command line, which may name the tracking store.

    Raises:
        UserError: there is none, or MLflow knows one whose folder is not here.
    """
    name = name.strip("'\"")
    folder = Path(name).expanduser().absolute()
    if (folder / SWEEP_FILE).exists():
        return folder
    known = sweeps_here()
    for path in known:
        record = read_json(path / SWEEP_FILE) or {}
        if name in (path.name, record.get("parent_run"), record.get("name")):
            return path
    if (found := _in_store(name, arguments)) is not None:
        return found
    newest = [f"  {path}" for path in known[:SHOWN]]
    there_are = (
        "\n".join(["the newest here:", *newest]) if newest else f"there are no sweeps in {Path('outputs').absolute()}"
    )
    raise UserError(f"sweep.resume={name}: no such sweep (a sweep's folder, or its run's id or name); {there_are}")


def sweeps_here() -> list[Path]:
    """The sweeps in `outputs` of the current folder, the newest first."""
    files = Path("outputs").absolute().glob(f"*/*/{SWEEP_FILE}")
    sound = [file.parent for file in files if read_json(file) is not None]
    return sorted(sound, reverse=True)


def _in_store(name: str, arguments: Sequence[str]) -> Path | None:
    from gantry.tracking.parent import folder_of_sweep

    given = dict(text.split("=", 1) for text in arguments if text.startswith("tracking.") and "=" in text)
    uri = given.get("tracking.uri", str(Path("mlruns").absolute())).strip("'\"")
    folder = folder_of_sweep(uri, given.get("tracking.experiment", "gantry"), name)
    if folder is not None and not (folder / SWEEP_FILE).exists():
        raise UserError(f"sweep.resume={name}: its folder {folder} is not on this machine; it can only go on there")
    return folder
