"""Looking at processes from outside."""

import contextlib
import time
from pathlib import Path


def alive(pid):
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def at_work_in(folder):
    """The processes whose working directory is the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if entry.readlink() == Path(folder).resolve():
                found.append(int(entry.parent.name))
    return found


def wait_for(what, seconds=60):
    """What `what` returns, once that is true."""
    deadline = time.time() + seconds
    while not (found := what()):
        assert time.time() < deadline
        time.sleep(0.05)
    return found
