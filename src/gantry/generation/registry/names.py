"""Checks the name of a registered model without slow imports, so that a wrong name is refused at once."""

import re

from gantry.core.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
REGISTERED = "models:/"  # before the name of a registered model and its version or alias
TAKEN = ("latest", "best")  # keywords of run=...


def check_name(name: str) -> None:
    """Refuse an invalid name of a model.

    Raises:
        UserError: the name is invalid.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"register={name}: a model's name has letters, digits, '_', '-' and '.', at most 100 of them")
    if name in TAKEN:
        raise UserError(f"register={name}: run={name} means a run; call the model otherwise")
