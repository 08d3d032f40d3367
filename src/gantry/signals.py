"""Being asked to stop: by Ctrl-C, by a scheduler, by a closed terminal."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOPS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `SystemExit(128 + number)`, so that the code around can tidy up."""

    def stop(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore further requests to stop: what runs inside takes bounded time and must not be left half done."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (*STOPS, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped_by(error: BaseException) -> signal.Signals | None:
    """The signal behind an exception; None where it is an error."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, SystemExit):
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
            return signal.SIGINT
        number = error.code - 128 if isinstance(error.code, int) else 0
        return signal.Signals(number) if number in set(STOPS) else None
    return None
