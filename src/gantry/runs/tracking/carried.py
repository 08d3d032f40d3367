"""Finds the store of a run or sweep whose whole project was copied or moved since it began."""

from __future__ import annotations

from pathlib import Path

from gantry.core.errors import UserError
from gantry.runs.tracking.store import locate, sqlite_address


def carried(uri: str, began: str | None, folder: Path) -> str:
    """Return the address of a run's store today.

    Where the run's folder lies elsewhere than when it began, what its old and its new path end in alike is its place in
    the project; if the project's store came along, that one is meant, not the original's.

    Args:
        uri: the store's address when the run began.
        began: the run's folder then, absolute; None where it is not known.
        folder: the run's folder now.
    """
    old, new = Path(began or ""), folder.absolute()
    while old.name and old.name == new.name:
        old, new = old.parent, new.parent
    if not began or old == new:
        return uri
    try:
        database = locate(uri).database
    except UserError:
        return uri
    if database is None or not database.is_relative_to(old):
        return uri
    there = new / database.relative_to(old)
    return sqlite_address(there) if there.exists() else uri
