"""Finds the folder of a sweep, or of a single run, by what a user may call it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from gantry.errors import UserError
from gantry.launch.record import SWEEP_FILE, identity, read_json, state_of
from gantry.lock import is_held
from gantry.tracking.base import RUN_FILE

SHOWN = 5  # named where there is none of that name
AUTO = "auto"
OVERRIDES = Path(".hydra/overrides.yaml")  # in a run's folder


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


def find_run(name: str, arguments: Sequence[str]) -> Path | None:
    """The folder of the run called `name`.

    Args:
        name: its folder; its run's id in MLflow; or "auto" for the latest unfinished run of this very command line.
        arguments: the command line.

    Returns:
        None where "auto" finds nothing to go on with.

    Raises:
        UserError: there is no such run.
    """
    if name == AUTO:
        return _unfinished(arguments)
    folder = Path(name).expanduser().absolute()
    if (folder / OVERRIDES).exists():
        return folder
    known = _runs_here()
    for path in known:
        if (read_json(path / RUN_FILE) or {}).get("run_id") == name:
            return path
    if not folder.exists() and name.isalnum() and (found := _run_in_store(name, arguments)) is not None:
        return found
    newest = "".join(f"\n  {path}" for path in known[:SHOWN])
    there_are = f"the newest here:{newest}" if newest else f"there is none in {Path('outputs').absolute()}"
    raise UserError(
        f"resume={name}: no such run (a run's folder, which has a {OVERRIDES}; its id in MLflow; or auto for the "
        f"latest unfinished run of the same command line); {there_are}"
    )


def _unfinished(arguments: Sequence[str]) -> Path | None:
    """The latest run of this command line that has begun, has not finished and is not running."""
    asked = identity(_own(arguments))
    given = [text.partition("=")[2].strip("'\"") for text in arguments if text.startswith("hydra.run.dir=")]
    folders = [Path(given[-1]).absolute()] if given else _runs_here()
    for folder in folders:
        file = folder / OVERRIDES
        alike = file.exists() and identity(_own(map(str, OmegaConf.load(file)))) == asked
        if alike and (given or (state_of(folder) in ("continues", "again") and not is_held(folder))):
            return folder
    return None


def _own(overrides: Iterable[str]) -> list[str]:
    return [text for text in overrides if "=" in text and not text.startswith("resume=")]


def _runs_here() -> list[Path]:
    """The runs in `outputs` of the current folder, jobs of sweeps included, the newest first."""
    files = [file for depth in ("*/*", "*/*/*") for file in Path("outputs").absolute().glob(f"{depth}/{OVERRIDES}")]
    return sorted((file.parents[1] for file in files), key=lambda folder: folder.stat().st_ctime, reverse=True)


def _run_in_store(run_id: str, arguments: Sequence[str]) -> Path | None:
    from gantry.tracking.parent import folder_of_run

    uri, experiment = _store(arguments)
    folder = folder_of_run(uri, experiment, run_id)
    if folder is not None and not (folder / OVERRIDES).exists():
        raise UserError(f"resume={run_id}: its folder {folder} is not on this machine; it can only go on there")
    return folder


def _in_store(name: str, arguments: Sequence[str]) -> Path | None:
    from gantry.tracking.parent import folder_of_sweep

    uri, experiment = _store(arguments)
    folder = folder_of_sweep(uri, experiment, name)
    if folder is not None and not (folder / SWEEP_FILE).exists():
        raise UserError(f"sweep.resume={name}: its folder {folder} is not on this machine; it can only go on there")
    return folder


def _store(arguments: Sequence[str]) -> tuple[str, str]:
    """The address of the tracking store and the experiment that a command line names."""
    given = dict(text.split("=", 1) for text in arguments if text.startswith("tracking.") and "=" in text)
    uri = given.get("tracking.uri", str(Path("mlruns").absolute())).strip("'\"")
    return uri, given.get("tracking.experiment", "gantry")
