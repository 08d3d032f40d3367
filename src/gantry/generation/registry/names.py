"""Checks the name of a registered model; imports nothing slow, so that a wrong one is refused at once."""

import re

from gantry.core.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
TAKEN = ("latest", "best")  # what run=... means by these


def check_name(name: str) -> None:
    """Refuse a name that a model cannot have, before anything slow.

    Raises:
        UserError: it is none.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"register={name}: a model's name has letters, digits, '_', '-' and '.', at most 100 of them")
    if name in TAKEN:
        raise UserError(f"register={name}: run={name} means a run; call the model otherwise")
