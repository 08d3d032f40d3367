"""Folders held by the process that works in them, by which the dead are told from the living."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gantry.core.errors import UserError

LOCK_FILE = ".lock"
PATIENCE = 2.0  # seconds: somebody may just be looking whether the folder is held


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Hold `folder` while the process lives: the system lets go of the lock whatever ends it.

    Raises:
        UserError: another process holds it; `what` names it in the message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise UserError(f"{what} {folder} is still running; stop it first, or wait for it") from error
    try:
        yield
    finally:
        lock.release()


def is_dead(folder: Path) -> bool:
    """Whether `folder` was held by a process of this machine that is gone; False where that cannot be told."""
    return _is_free(folder) is True


def is_held(folder: Path) -> bool:
    """Whether a process of this machine holds `folder`; False where that cannot be told."""
    return _is_free(folder) is False


def _is_free(folder: Path) -> bool | None:
    path = folder / LOCK_FILE
    if not path.exists():
        return None
    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False
    except OSError:
        return None
