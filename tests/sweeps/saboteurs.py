"""A loss that goes wrong after a few steps, in the way its option says."""

import os
import resource
import signal
import time
from pathlib import Path

import torch

from gantry.models.losses import non_saturating

AFTER = 6  # calls: two a step, and one that looks whether the generator sees the real logits
calls = 0


def fail():
    raise ValueError("on purpose")


def fill():
    """Memory, past a limit 256 MiB above what is held."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**28, held + 2**28))
    torch.stack([torch.ones(2**24) for _ in range(100)])


HARM = {
    1: fail,
    3: lambda: os.kill(os.getpid(), signal.SIGKILL),
    5: lambda: os._exit(3),
    7: lambda: time.sleep(10_000),
    9: fill,
}


def loss(real, fake, harm: int):
    """The usual loss, but for the five that do harm."""
    global calls
    calls += 1
    if calls > AFTER:
        HARM.get(harm, lambda: None)()
    return non_saturating(real, fake)
