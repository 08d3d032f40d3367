"""Decides whether a dotted name from a file may be imported: it stands in a module that the user trusts."""

import ast
from collections.abc import Sequence

from gantry.core.config.definitions import find
from gantry.core.moved import new_name


def is_trusted(name: str, trusted: Sequence[str]) -> bool:
    """Return True if `name` is one of `trusted` or below one; "mine" and "mine." trust mine.x, not mines.x."""
    name = new_name(name)
    return any(f"{name}.".startswith(f"{new_name(prefix.rstrip('.'))}.") for prefix in trusted)


def defined_in(name: str, trusted: Sequence[str]) -> bool:
    """Return True if `name` is defined in one of `trusted`: mine.os.system is not, though `mine` imports os."""
    if not is_trusted(name, trusted):
        return False
    found = find(name)
    if found is None or not isinstance(found.statement, ast.FunctionDef | ast.ClassDef):  # an import, perhaps
        return False
    return is_trusted(f"{found.module.name}.{found.statement.name}", trusted)
