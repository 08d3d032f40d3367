"""Exceptions and exit codes that all packages share."""

FAILED, REFUSED, INTERRUPTED = 1, 2, 130


class UserError(Exception):
    """A mistake in the command or the data; the message describes it and names the valid choices.

    Entry points print the message without a traceback and exit with status 2.
    """


DIVERGED, OUT_OF_MEMORY = "diverged", "out_of_memory"  # kinds of failure that somebody tells apart


class JobFailed(Exception):
    """A job of a sweep did not finish; the reason has been printed already.

    Attributes:
        kind: `DIVERGED` or `OUT_OF_MEMORY`; None: any other failure.
    """

    def __init__(self, *said: object, kind: str | None = None) -> None:
        super().__init__(*said)
        self.kind = kind


class RunFailed(JobFailed):
    """A run cannot continue; the message explains the reason fully, so that no traceback is printed."""


class PeerFailed(JobFailed):
    """Another rank of this run has failed, which ends this rank too.

    Attributes:
        reason: the rank and its error; the message also holds that rank's traceback, unless it was a `RunFailed`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def reason(error: BaseException) -> str:
    """Return why a run failed, in the words of its record."""
    if isinstance(error, PeerFailed):
        return error.reason
    return str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}"
