"""Turns SIGINT, SIGTERM, SIGHUP and SIGUSR1 into a stop after the current step."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # SLURM sends SIGUSR1 before a job's time limit


class Stopping(SystemExit):
    """A signal ends this process.

    The exit code is 128 + the signal's number; SIGUSR1 has that of SIGTERM, which it announces.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(128 + (signal.SIGTERM if number == signal.SIGUSR1 else number))


class Stopped(Stopping):
    """Raised by `Stop.check` at a point where no work is half done."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopping` on the stop signals other than Ctrl-C, so that enclosing code can clean up."""

    def stop(number: int, _: Any) -> None:
        raise Stopping(number)

    with handled(stop, STOPS):
        yield


class Stop:
    """A stop request that takes effect at the next call of `check`."""

    def __init__(self) -> None:
        self.number: signal.Signals | None = None

    def check(self) -> None:
        """Stop here if a signal has been received.

        Raises:
            Stopped: holds the signal.
        """
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def deferred(stop: Stop) -> Iterator[None]:
    """Store the first stop signal in `stop`; a later Ctrl-C raises `Stopping` at once.

    Other later signals are ignored: a scheduler warns with one signal, repeats with another, and kills by itself what
    takes too long.
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
    """Ignore stop signals in this context, whose work takes bounded time and must not be left half done."""
    with handled(signal.SIG_IGN):
        yield


@contextmanager
def handled(handler: Any, numbers: Sequence[signal.Signals] = (*STOPS, signal.SIGINT)) -> Iterator[None]:
    """Install `handler` for the stop signals in this context, and restore the previous handlers afterwards."""
    # A signal that is ignored stays so: `nohup` relies on it.
    handled_here = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in handled_here}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def stopped_by(error: BaseException) -> signal.Signals | None:
    """Return the signal that caused an exception; None where it is an error."""
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
