"""Being asked to stop: by Ctrl-C, by a scheduler, by a closed terminal."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # SLURM warns by the last of the end of a job's time


class Stopping(SystemExit):
    """A signal that ends this process.

    Its exit code is 128 + the signal's number; SIGUSR1, by which a scheduler announces SIGTERM, has that one's.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(128 + (signal.SIGTERM if number == signal.SIGUSR1 else number))


class Stopped(Stopping):
    """Raised by `Stop.check`, where nothing is half done."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn the signals that ask to stop, but for Ctrl-C, into `Stopping`, so that the code around can tidy up."""

    def stop(number: int, _: Any) -> None:
        raise Stopping(number)

    with handled(stop, STOPS):
        yield


class Stop:
    """A request to stop that waits until the code asks for it."""

    def __init__(self) -> None:
        self.number: signal.Signals | None = None

    def check(self) -> None:
        """Stop here, if asked to.

        Raises:
            Stopped: naming the signal.
        """
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def deferred(stop: Stop) -> Iterator[None]:
    """Note the first request to stop in `stop`; a second Ctrl-C raises at once.

    Other requests that follow change nothing: a scheduler warns with one signal and insists with another, and ends
    by itself what takes too long.
    """

    def note(number: int, _: Any) -> None:
        if stop.number is None:
            stop.number = signal.Signals(number)
        elif number == signal.SIGINT:
            raise Stopping(number)

    with handled(note):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore further requests to stop: what runs inside takes bounded time and must not be left half done."""
    with handled(signal.SIG_IGN):
        yield


@contextmanager
def handled(handler: Any, numbers: Sequence[signal.Signals] = (*STOPS, signal.SIGINT)) -> Iterator[None]:
    """Have `handler` take the signals that ask to stop, and put back who took them before."""
    # What is ignored stays so: `nohup` asks for it.
    asked = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in asked}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def stopped_by(error: BaseException) -> signal.Signals | None:
    """The signal behind an exception; None where it is an error."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, Stopping):
        return error.number
    if isinstance(error, SystemExit):
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
            return signal.SIGINT
        number = error.code - 128 if isinstance(error.code, int) else 0
        return signal.Signals(number) if number in {signal.SIGINT, *STOPS} else None
    return None
