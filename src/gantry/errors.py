"""The one exception that is the user's to mend, not ours."""


class UserError(Exception):
    """Something the user asked for cannot work; the message says what, and names the valid choices.

    Entry points print the message without a traceback and exit with status 2.
    """


class JobFailed(Exception):
    """A job of a sweep that did not finish; the user has been told already."""


class PeerFailed(JobFailed):
    """Another rank of this run has failed, which ends this one too.

    Attributes:
        reason: which rank and why, in one line; the message holds that rank's traceback.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
