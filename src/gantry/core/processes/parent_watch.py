"""A job's end of the tie to its sweep, or a rank's to its run: when the process that started it is gone, it stops."""

from __future__ import annotations

import os
import signal
import threading
import time

LEASH = "GANTRY_LEASH"  # environment variable: the file descriptor, readable to its end once the sweep is gone
HOLDER = "GANTRY_LEASH_HOLDER"  # environment variable: whether a "sweep" (as without it) or a "run" holds the other end
GRACE = 60.0  # seconds to write a checkpoint and close the run

_gone = threading.Event()


def follow() -> bool:
    """Stop this process when the one that started it is gone; returns whether it is part of a sweep."""
    if (number := os.environ.pop(LEASH, None)) is None:
        return False
    threading.Thread(target=_watch, args=(int(number),), name="leash", daemon=True).start()
    return _in_sweep()


def reason() -> str | None:
    """Why the job was told to stop, where that was the end of the process that started it."""
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
