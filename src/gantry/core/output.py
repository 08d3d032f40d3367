"""Keeps what cannot be shown from ending a command: its work is done, whatever its terminal or pipe can take.

A terminal may lack a character; the program that reads a pipe may have ended (`| head`), a redirected output's disk
may be full, and standard output may be closed from the start.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from gantry.core.errors import reason

REPLACED = "gantry.replaced"  # the name of the error handler that replaces what an encoding lacks
# What stands for the characters that tables and messages use; "?" for any other.
PLAIN = {"±": "+-", "≈": "~", "…": "...", "—": "-", "→": "->", "│": "|", "━": "-", "╸": "-", "•": "*"}


class Output:
    """Standard output or standard error, which goes on where nothing can be written any more.

    Attributes:
        lost: why something could not be written; None where all was.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lost: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write text; later text is dropped once something could not be written."""
        if self.lost is None:
            try:
                return self.stream.write(text)
            except (OSError, ValueError) as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        if self.lost is None:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        self.lost = error
        with suppress(OSError, ValueError):  # so that flushing at exit does not fail again
            with Path(os.devnull).open("wb") as nothing:
                os.dup2(nothing.fileno(), self.stream.fileno())
            self.stream.flush()


@contextmanager
def shown() -> Iterator[tuple[Output, Output]]:
    """Within this context nothing that is printed raises; yields standard output and standard error.

    Characters that their encoding lacks are replaced by plain ones.
    """
    codecs.register_error(REPLACED, _replaced)
    _open_closed()
    before = sys.stdout, sys.stderr
    for stream in before:
        with suppress(OSError, ValueError, AttributeError):
            cast(Any, stream).reconfigure(errors=REPLACED)
    outputs = Output(sys.stdout), Output(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, outputs[0]), cast(TextIO, outputs[1])
    try:
        yield outputs
    finally:
        for output in outputs:
            output.flush()
        sys.stdout, sys.stderr = before


def loss(output: Output) -> str | None:
    """Return what to say about output that could not be written; None where all was, or where its reader has ended."""
    if output.lost is None or isinstance(output.lost, BrokenPipeError):
        return None
    return f"not all output could be written: {reason(output.lost)}"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that cannot be encoded, and where encoding goes on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


def _open_closed() -> None:
    """Open closed standard streams on the null device; the next file opened would else be taken for one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, this one
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
