"""Locks a folder while a process works in it, so that others can see whether that process still runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gantry.core.errors import UserError

LOCK_FILE = ".lock"
PATIENCE = 2.0  # seconds to wait: another process may hold the lock briefly in `is_dead` or `is_held`


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of `folder` in this context; the system releases it however the process ends.

    Raises:
        UserError: another process holds the lock; `what` names the folder in the message.
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
    """Return True where a process of this machine held `folder` and has ended; False where that is unknown."""
    return _is_free(folder) is True


def is_held(folder: Path) -> bool:
    """Return True where a process of this machine holds `folder`; False where that is unknown."""
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
