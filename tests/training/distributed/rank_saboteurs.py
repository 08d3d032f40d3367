"""A loss with which one rank goes wrong after a few steps, in the way its option says."""

import os
import signal
import time

from gantry.models.losses import generator_sees, non_saturating

AFTER = 8  # calls: two a step
calls = 0


def fail():
    raise ValueError("on purpose")


HARM = {
    "fail": fail,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "wait": lambda: time.sleep(10_000),  # its other threads live on: only the failing of others ends it
}


@generator_sees("fake")
def loss(real, fake, harms: str):
    """The usual loss, but on the ranks that `harms` names, such as "1-kill" or "0-wait 1-fail"."""
    global calls
    calls += 1
    harm = dict(words.split("-") for words in harms.split()).get(os.environ.get("LOCAL_RANK", "0"))
    if calls > AFTER and harm:
        HARM[harm]()
    return non_saturating(real, fake)
