"""Finds the pages of runs in MLflow's own interface, without a request to the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from gantry.core.errors import UserError
from gantry.reports.run import Run
from gantry.runs.tracking.store import locate
from gantry.runs.tracking.ui import address_of, run_address, serving_command


def page(store: str | None, experiment_id: str | None, run_id: str | None) -> str | None:
    """Return the address of a run's page; None where its store, experiment or id is not known.

    Args:
        store: the store's address; of a folder or a database the page is where `mlflow ui` will serve it.
        experiment_id: None to look it up, which is possible in an SQLite file.
        run_id: the run.
    """
    if store is None or run_id is None:
        return None
    try:
        location = locate(store)
    except UserError:
        return None
    if experiment_id is None and location.database is not None:
        experiment_id = _looked_up(location.database, run_id)
    if experiment_id is None:
        return None
    return run_address(address_of(store), experiment_id, run_id)


def pages(runs: Iterable[Run]) -> dict[Run, str]:
    """Return the address of each run's page, of those that have one."""
    found = ((run, page(run.store, run.experiment_id, run.run_id)) for run in runs)
    return {run: address for run, address in found if address is not None}


def commands(runs: Iterable[Run]) -> list[str]:
    """Return the commands that serve the pages of `runs`, one for each store that is no server."""
    stores = dict.fromkeys(run.store for run in runs if run.store is not None)
    return [serving_command(store) for store in stores if locate(store).folder is not None]


def _looked_up(database: Path, run_id: str) -> str | None:
    if not database.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=2)) as rows:
            found = rows.execute("SELECT experiment_id FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    except sqlite3.Error:
        return None
    return None if found is None else str(found[0])
