"""The one exception that is the user's to mend, not ours."""

FAILED, REFUSED, INTERRUPTED = 1, 2, 130


class UserError(Exception):
    """Something the user asked for cannot work; the message says what, and names the valid choices.

    Entry points print the message without a traceback and exit with status 2.
    """


DIVERGED, OUT_OF_MEMORY = "diverged", "out_of_memory"  # kinds of failure that somebody tells apart


class JobFailed(Exception):
    """A job of a sweep that did not finish; the user has been told already.

    Attributes:
        kind: `DIVERGED` or `OUT_OF_MEMORY`; None: any other failure.
    """

    def __init__(self, *said: object, kind: str | None = None) -> None:
        super().__init__(*said)
        self.kind = kind


class RunFailed(JobFailed):
    """A run that cannot go on, for a reason that its message explains: no traceback would add to it."""


class PeerFailed(JobFailed):
    """Another rank of this run has failed, which ends this one too.

    Attributes:
        reason: which rank and why; the message holds that rank's traceback too, unless it was a `RunFailed`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def reason(error: BaseException) -> str:
    """Why a run failed, as its record says it."""
    if isinstance(error, PeerFailed):
        return error.reason
    return str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}"
