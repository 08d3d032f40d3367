"""Finds what to compare: a sweep by its folder, id or name; single runs by folder or id."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.errors import UserError
from gantry.core.files import read_json
from gantry.core.text import show
from gantry.reports.mlflow_store import read_runs
from gantry.reports.run import Run, from_folder
from gantry.runs.find import sweeps_here
from gantry.runs.folder import STATUS_FILE, TAGS_FILE
from gantry.runs.sweep_record import SWEEP_FILE

if TYPE_CHECKING:
    from mlflow.entities import Run as MLflowRun

    from gantry.runs.tracking.query import Store


NAMED = 5  # sweeps named where one is not found


def find_compared_sweep(wanted: str | None, store: Callable[[], Store | None]) -> Path | MLflowRun:
    """The folder of a sweep; where that is not on this machine, its MLflow run.

    Args:
        wanted: a folder, a run's id or name; None for the latest sweep.
        store: opens where to look for runs.

    Raises:
        UserError: there is none; the message names the latest ones.
    """
    if wanted is not None and Path(wanted).expanduser().is_dir():
        return Path(wanted).expanduser()
    folders = sweeps_here()
    opened = store()
    parent = opened.sweep(wanted) if opened is not None else None
    if parent is not None and not (wanted is None and folders and _is_later(folders[0], parent)):
        return _folder_of(parent) or parent
    for folder in folders:
        record = read_json(folder / SWEEP_FILE) or {}
        if wanted in (None, folder.name, record.get("name"), record.get("parent_run")):
            return folder
    if wanted is None:
        raise UserError("no sweep yet: python train.py -m model=wgan,dcgan makes one, runs=[...] compares single runs")
    tracked = [f"{run.info.run_id}  {run.info.run_name}" for run in opened.sweeps()] if opened is not None else []
    known = (tracked or [show(folder) for folder in folders])[:NAMED]
    latest = "\nthe latest:\n  " + "\n  ".join(known) if known else "; there is no sweep yet"
    raise UserError(f"sweep={wanted}: no such folder, run id or name of a sweep{latest}")


def _folder_of(parent: MLflowRun) -> Path | None:
    """The folder of a sweep's run, where it is on this machine."""
    folder = Path(parent.data.tags.get("gantry.folder", os.devnull))
    if not (folder / SWEEP_FILE).is_file():
        return None
    record = read_json(folder / SWEEP_FILE) or {}
    return folder if record.get("parent_run") == parent.info.run_id else None


def _is_later(folder: Path, parent: MLflowRun) -> bool:
    """Whether the sweep in `folder`, tracked elsewhere or nowhere, was begun after the one of `parent`."""
    record = read_json(folder / SWEEP_FILE)
    if record is None or record.get("parent_run") == parent.info.run_id:
        return False
    begun = (folder / "multirun.yaml", folder / SWEEP_FILE)
    return next((file.stat().st_mtime for file in begun if file.exists()), 0.0) > parent.info.start_time / 1000


def find_compared_runs(names: Sequence[str], store: Callable[[], Store | None]) -> list[Run]:
    """Runs by folder or MLflow id, in the order given.

    Args:
        store: opens where to look for ids; not called where all are folders.

    Raises:
        UserError: a name is neither, or a folder holds no run.
    """
    if not names:
        raise UserError("runs: name at least one, by its folder or its MLflow id")
    folders = {name: Path(name).expanduser().absolute() for name in dict.fromkeys(names)}
    for folder in folders.values():
        if folder.is_dir() and not any((folder / file).exists() for file in (TAGS_FILE, STATUS_FILE)):
            raise UserError(f"runs: {show(folder)} holds no run")
    ids = [name for name, folder in folders.items() if not folder.is_dir()]
    tracked: dict[str, Run] = {}
    if ids:
        opened = store()
        found = {name: opened.get(name) for name in ids} if opened is not None else {}
        if unknown := [name for name in ids if found.get(name) is None]:
            raise UserError(f"runs: {', '.join(unknown)}: neither a run's folder nor the id of a run in the store")
        assert opened is not None  # or all were unknown
        tracked = dict(zip(ids, read_runs(opened, [run for run in found.values() if run is not None]), strict=True))
    return [tracked[name] if name in tracked else from_folder(folder) for name, folder in folders.items()]
