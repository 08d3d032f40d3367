"""Finds the runs to compare: the latest sweep, a named sweep, or single runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gantry.core.errors import UserError
from gantry.core.files import read_json
from gantry.core.text import show, typed_command
from gantry.reports.mlflow_store import read_runs
from gantry.reports.run import Run, from_folder
from gantry.runs.find import LATEST, Found, Opener, begun, find, find_sweep, here, is_recorded, is_sweep, runs_of
from gantry.runs.sweep_record import SWEEP_FILE


def find_compared_sweep(word: str | None, store: Opener) -> Found:
    """Find a sweep by a name, id or folder (see `gantry.runs.find.find`).

    Args:
        word: None for the latest sweep, here or in MLflow.

    Raises:
        UserError: there is none; the message names the latest ones.
    """
    if word not in (None, LATEST):
        return find_sweep(word, "sweep", store)
    folders, opened = here(is_sweep), store()
    parent = opened.sweep(None) if opened is not None else None
    if folders:
        own = (read_json(folders[0] / SWEEP_FILE) or {}).get("parent_run")
        if parent is None or own == parent.info.run_id or begun(folders[0]) > parent.info.start_time / 1000:
            return Found(folders[0])
    if parent is None:
        raise UserError(
            f"no sweep yet: {typed_command('train')} -m model=wgan,dcgan makes one, runs=[...] compares single runs"
        )
    return find_sweep(parent.info.run_id, "sweep", store)


def find_compared_runs(words: Sequence[str], store: Opener) -> list[Run]:
    """Find the runs a user names, each once, in the given order; of a sweep all runs that have begun.

    Args:
        words: see `gantry.runs.find.WORDS`.
        store: opens the MLflow store, which is searched for words that match no folder here.

    Raises:
        UserError: there is no such run, or a folder does not contain one.
    """
    if not words:
        raise UserError("runs: name at least one, by its folder, or its id or name in MLflow")
    runs: dict[Path | str, Run] = {}
    for word in dict.fromkeys(words):
        found = find(word, "runs", is_recorded, store)
        if found.folder is not None and not found.is_sweep and not is_recorded(found.folder):
            raise UserError(f"runs: {show(found.folder)} holds no run")
        chosen = runs_of(found)
        runs |= {one.folder: from_folder(one.folder) for one in chosen if one.folder and is_recorded(one.folder)}
        elsewhere = [one.tracked for one in chosen if one.folder is None and one.tracked is not None]
        if found.store is not None and elsewhere:
            runs |= {run.run_id or run.name: run for run in read_runs(found.store, elsewhere)}
    return list(runs.values())
