"""A job's end of the tie to its sweep: when the sweep's process is gone, whatever killed it, the job stops."""

from __future__ import annotations

import os
import signal
import threading
import time

LEASH = "GANTRY_LEASH"  # environment variable: the file descriptor, readable to its end once the sweep is gone
GRACE = 60.0  # seconds to write a checkpoint and close the run

_gone = threading.Event()


def follow() -> bool:
    """Stop this process when its sweep is gone; returns whether it has one."""
    if (number := os.environ.pop(LEASH, None)) is None:
        return False
    threading.Thread(target=_watch, args=(int(number),), name="leash", daemon=True).start()
    return True


def reason() -> str | None:
    """Why the job was told to stop, where that was its sweep's end."""
    return "its sweep is gone: the process that started it was killed" if _gone.is_set() else None


def _watch(leash: int) -> None:
    os.read(leash, 1)
    _gone.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(128 + signal.SIGKILL)
