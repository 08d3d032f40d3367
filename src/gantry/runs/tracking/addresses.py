"""Keeps the files of a store in a folder inside that folder, also after the folder was copied or moved.

MLflow's database holds absolute addresses: of an experiment's files, which every new run inherits, and of the files of
runs, logged models and model versions. In a copy they still name the original, so that the copy's runs would write
there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gantry.runs.tracking.tracker import log

BUSY = 20.0  # seconds to wait for another process that writes to the database
ARTIFACTS = "artifacts"  # in the store's folder
EXPERIMENTS = ("experiments", "artifact_location")
HOLDERS = (  # tables and columns with addresses of files that exist already
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def keep_inside(database: Path) -> None:
    """Correct the addresses in a store that was copied or moved, and log a warning that says so.

    A folder of artifacts that somebody chose outside the store stays: only where the store lay before counts as left
    behind (see `_left_behind`), and a file's address changes only if the file came along, or is gone where it was.

    Args:
        database: the store's SQLite file; its folder is the store's.
    """
    folder = database.parent
    with _opened(database) as rows:
        for old in _left_behind(rows, folder, database.name):
            changed = _move(rows, EXPERIMENTS, old, folder, always=True)
            files = sum(_move(rows, holder, old, folder) for holder in HOLDERS)
            if changed or files:
                log.warning(
                    "This tracking store was copied or moved from %s: the addresses of %d experiments and %d runs and "
                    "models are corrected, their files are in %s",
                    *(old, changed, files, folder / ARTIFACTS),
                )


def place_default(database: Path) -> None:
    """Put the files of MLflow's default experiment into the folder of a store that was just created.

    MLflow puts them into `mlruns/0` below the current folder.
    """
    with _opened(database) as rows:
        place = (database.parent / ARTIFACTS).as_uri()
        rows.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0", (place,))


def needs_correction(database: Path) -> bool:
    """Return True where `keep_inside` would look closer: some address lies outside the store's folder."""
    with _opened(database) as rows:
        found = [local_path(address) for _, address in _addresses(rows, EXPERIMENTS)]
    return any(path is not None and not path.is_relative_to(database.parent) for path in found)


def location_of(database: Path, experiment: str) -> str | None:
    """Return the address of an experiment's files; None where the database or the experiment does not exist yet."""
    if not database.exists():
        return None
    with _opened(database) as rows:
        found = rows.execute("SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)).fetchone()
    return None if found is None else str(found[0])


def local_path(address: str | None) -> Path | None:
    """Return the path that an artifact address names; None where it names a server or a cloud's store."""
    if not address:
        return None
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(address) if address.startswith("/") else None


def _left_behind(rows: sqlite3.Connection, folder: Path, database: str) -> list[Path]:
    """Return the folders in which the store lay before.

    They are those where its experiments' files are said to be, if files of its runs have come along from there, or
    another copy of the database is still there, or the folder is gone and had the name of this one.
    """
    files = [path for holder in HOLDERS for _, address in _addresses(rows, holder) if (path := local_path(address))]
    found = []
    for _, address in _addresses(rows, EXPERIMENTS):
        path = local_path(address)
        if path is None or any(_same(above, folder) for above in path.parents):
            continue
        if (old := _where_from(path, folder, files)) is not None:
            found.append(old)
        elif path.name == ARTIFACTS:  # as Gantry calls it
            old = path.parent
            if (old / database).exists() or (not old.exists() and old.name == folder.name):
                found.append(old)
    return list(dict.fromkeys(found))


def _where_from(path: Path, folder: Path, files: list[Path]) -> Path | None:
    """Return the folder that was copied or moved to `folder` with an experiment's `path`, of whose runs files exist."""
    for old in path.parents:
        if _counterpart(path, old, folder).exists():
            mine = [file for file in files if file.is_relative_to(path)]
            if any(_counterpart(file, old, folder).exists() for file in mine):
                return old
    return None


def _move(rows: sqlite3.Connection, column: tuple[str, str], old: Path, new: Path, always: bool = False) -> int:
    """Replace the folder `old` by `new` in a column of addresses, and return how many have changed."""
    table, name = column
    changed = 0
    for key, address in _addresses(rows, column):
        path = local_path(address)
        if path is None or not path.is_relative_to(old):
            continue
        there = _counterpart(path, old, new)
        if always or there.exists() or not path.exists():
            said = there.as_uri() if address.startswith("file:") else str(there)
            rows.execute(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", (said, key))
            changed += 1
    return changed


def _addresses(rows: sqlite3.Connection, column: tuple[str, str]) -> list[tuple[int, str]]:
    """Return the row ids and addresses of a column; none where an older MLflow has no such column."""
    table, name = column
    if name not in {known[1] for known in rows.execute(f"PRAGMA table_info({table})")}:
        return []
    return [(key, address) for key, address in rows.execute(f"SELECT rowid, {name} FROM {table}") if address]


def _counterpart(path: Path, old: Path, new: Path) -> Path:
    return new / path.relative_to(old)


def _same(one: Path, other: Path) -> bool:
    """Return True for one folder under two names, such as by a link."""
    return one == other or (one.exists() and other.exists() and one.samefile(other))


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Open the database for a transaction, which an error undoes."""
    with closing(sqlite3.connect(database, timeout=BUSY)) as connection, connection:
        yield connection
