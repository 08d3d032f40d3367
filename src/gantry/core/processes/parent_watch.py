"""Stops this process when its parent has died: a job's sweep, or a rank's run.

The parent holds the other end of a pipe, and its end of file is the sign.
"""

from __future__ import annotations

import os
import signal
import threading
import time

LEASH = "GANTRY_LEASH"  # environment variable: the pipe's file descriptor, at end of file once the parent is gone
HOLDER = "GANTRY_LEASH_HOLDER"  # environment variable: the parent, a "sweep" (the default) or a "run"
GRACE = 60.0  # seconds to write a checkpoint and close the run

_gone = threading.Event()


def follow() -> bool:
    """Stop this process once its parent is gone; return True where the parent is a sweep."""
    if (number := os.environ.pop(LEASH, None)) is None:
        return False
    threading.Thread(target=_watch, args=(int(number),), name="leash", daemon=True).start()
    return _in_sweep()


def reason() -> str | None:
    """Return why the job stops, where its parent has died; else None."""
    if not _gone.is_set():
        return None
    whose = "its sweep is gone" if _in_sweep() else "its first process is gone"
    return f"{whose}: the process that started it was killed"


def _in_sweep() -> bool:
    return os.environ.get(HOLDER, "sweep") == "sweep"


def _watch(leash: int) -> None:
    os.read(leash, 1)
    _gone.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(128 + signal.SIGKILL)
