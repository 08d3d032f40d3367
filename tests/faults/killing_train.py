"""train.py that kills itself in the middle of a checkpoint: of the file named KILL_AT, after so many bytes of it.

`KILL_AT=12:4096`: while it writes its twelfth checkpoint, once 4096 bytes are in the file. `KILL_AT=12:rename`:
when it is whole, before it has its name; `12:keep`: when it has, before older ones go.
"""

import os
import signal
from pathlib import Path

from gantry.commands.train import main
from gantry.runs import checkpoint_files

NUMBER, MOMENT = os.environ["KILL_AT"].split(":")
written = 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class DiesMidway:
    """A file that takes part of what is written to it."""

    def __init__(self, file, size):
        self.file, self.size = file, size

    def write(self, content):
        self.file.write(content[: self.size])
        self.file.flush()
        die()


def watched(run, step, content):
    global written
    written += 1
    if written < int(NUMBER):
        return write(run, step, content)
    if MOMENT.isdigit():
        part = run / checkpoint_files.FOLDER / checkpoint_files.PART
        part.parent.mkdir(exist_ok=True)
        with part.open("wb") as file:
            DiesMidway(file, int(MOMENT)).write(bytes(content))
    if MOMENT == "rename":
        Path.replace = lambda *_: die()
    path = write(run, step, content)
    die()  # "keep"
    return path


write, checkpoint_files.write = checkpoint_files.write, watched

if __name__ == "__main__":
    main()
