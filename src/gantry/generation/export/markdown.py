"""Values from files as Markdown, whatever they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeGuard

from gantry.core.text import redact

UNKNOWN, MISSING = "not known", "missing"
LONGEST = 200  # characters of a value
MOST = 10  # names in a list
LARGEST = 1e300  # what is beyond is no measurement; NaN is not below it either


def code(value: object) -> str:
    """A value as a code span: one line, in which no character is markup; its passwords are hidden."""
    if value is None or value == "":
        return UNKNOWN
    text = redact(" ".join(str(value).split())).replace("`", "'")
    text = "".join(character for character in text if character.isprintable()).strip() or "?"
    return f"`{text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}`"


def listed(names: Iterable[object]) -> str:
    """The first of them, in code spans."""
    every = list(names)
    more = f" and {len(every) - MOST} more" if len(every) > MOST else ""
    return ", ".join(map(code, every[:MOST])) + more


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def number(value: object) -> str:
    """A measured value."""
    return f"{value:.6g}" if is_number(value) else MISSING


def count(value: object) -> str:
    """A whole number, which a tag holds as text."""
    text = str(value)
    return f"{int(text):,}" if re.fullmatch(r"\d{1,18}", text) else UNKNOWN
