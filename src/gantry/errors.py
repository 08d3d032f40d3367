"""The one exception that is the user's to mend, not ours."""


class UserError(Exception):
    """Something the user asked for cannot work; the message says what, and names the valid choices.

    Entry points print the message without a traceback and exit with status 2.
    """


class JobFailed(Exception):
    """A job of a sweep that did not finish; the user has been told already."""
