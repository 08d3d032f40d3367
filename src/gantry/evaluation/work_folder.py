"""Locks the folder of an evaluation in progress against other processes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gantry.core.errors import UserError

FORGOTTEN = 14 * 24 * 3600.0  # seconds after which a stopped evaluation can no longer be resumed


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Lock a folder of work in progress.

    Raises:
        UserError: another process has locked it.
    """
    work.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{work}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError("this very evaluation is under way in another process; wait for it") from error
    try:
        yield
    finally:
        lock.release()


def forget(folder: Path) -> None:
    """Delete the work of evaluations stopped long ago in `folder`: gigabytes each, at 50,000 images."""
    for work in (path for path in folder.glob("*") if path.is_dir()):
        with suppress(UserError, FileNotFoundError):  # it is in progress again, or has just been deleted
            latest = max(path.stat().st_mtime for path in (work, *work.iterdir()))
            if latest < time.time() - FORGOTTEN:
                with alone(work):
                    shutil.rmtree(work)
