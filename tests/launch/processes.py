"""Looking at processes from outside."""

import time
from pathlib import Path


def alive(pid):
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, seconds=60):
    """What `what` returns, once that is true."""
    deadline = time.time() + seconds
    while not (found := what()):
        assert time.time() < deadline
        time.sleep(0.05)
    return found
