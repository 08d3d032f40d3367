"""Takes options whose value is text, such as a path, as they were typed, whatever Hydra's grammar reads in them.

In that grammar a comma, a parenthesis, a bracket, `=`, `#`, a quote or a letter outside ASCII has a meaning of its own
or none. The options are those that `gantry.core.config.options` declares as typed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException

from gantry.core.config.declaration import declared
from gantry.core.config.overrides import quoted

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")  # Hydra's own options that are paths
LEFT = ("", "null", "???")  # values that no path is meant by
# A member of a list: quoted text up to a comma or the end, or else all up to the next comma.
_MEMBER = re.compile(r"""(?:^|,)(\s*(?:'(?:\\.|[^'])*'|"(?:\\.|[^"])*")\s*(?=,|$)|[^,]*)""")


def as_typed(arguments: Sequence[str], command: type) -> list[str]:
    """Return a command line in which Hydra reads the typed options of `command` as they were typed.

    Where several values are given, in a sweep or as a list in brackets, each is taken as typed. A path or a member of
    a list may stand in Hydra's quotes; a value that Hydra reads as the same text anyway is left as it is.

    Args:
        arguments: the command line after the program's name.
        command: the dataclass of the command's options.
    """
    kinds = {key: option.typed for key, option in declared(command).items() if option.typed}
    kinds |= dict.fromkeys(FOLDERS, "path")
    sweeps = any(text in ("-m", "--multirun") or text.startswith("sweep.resume=") for text in arguments)
    taken = []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        kind = kinds.get(key.lstrip("+")) if equals else None
        if kind == "texts" and text.startswith("[") and text.endswith("]") and not _exists(text):
            members = (_path(member.strip()) for member in _members(text[1:-1]))
            argument = f"{key}=[{','.join(members)}]"
        elif kind == "path":
            argument = f"{key}={_swept(text) if sweeps else _path(text)}"
        elif kind:
            argument = f"{key}={_exact(text)}"
        taken.append(argument)
    return taken


def plain(text: str) -> str:
    """Return the value of an argument without the quotes of Hydra's grammar."""
    read = _read(text)
    return str(read.value()) if read is not None and _is_quoted(read) else text


def _exact(text: str) -> str:
    """Return a value as Hydra has to be given it.

    In a sweep Hydra writes a value anew for each job, with a backslash before a colon or a blank, but not in quotes.
    """
    read = None if text in LEFT else _read(text)
    same = text in LEFT or (read is not None and not _is_quoted(read) and read.value() == text == _written(read))
    return text if same else quoted(text)


def _written(read: Override) -> str:
    """Return a value as Hydra writes it for a job."""
    return "" if read.is_sweep_override() else str(read.get_value_element_as_str())


def _path(text: str) -> str:
    """Return a path as Hydra has to be given it."""
    if text not in LEFT and not _exists(text):
        read = _read(text)
        value = read.value() if read is not None else None
        if read is not None and _is_quoted(read):
            return text
        if isinstance(value, str) and _exists(value):
            return text  # Hydra's escapes, such as a\,b, or spaces around the value
        members = _members(text)
        if len(members) > 1 and all(map(_exists, members)):
            return ",".join(map(_path, members))  # Hydra refuses several values where there is no sweep
    return _exact(text)


def _swept(text: str) -> str:
    """Return the value of an option in a sweep, which may be several values with commas between them."""
    read = None if _exists(text) else _read(text)
    if read is not None and read.is_sweep_override() and not _is_list(read):
        return text  # a function, such as choice(a,b) or glob(*)
    if read is not None and not read.is_sweep_override() and "," in text:
        return text  # quoted, or in brackets
    return _path(text) if _exists(text) else ",".join(map(_path, _members(text)))


def _is_list(read: Override) -> bool:
    """Return True for values with commas between them."""
    return isinstance(read._value, ChoiceSweep) and read._value.simple_form


def _read(text: str) -> Override | None:
    """Return how Hydra reads a value; None where it cannot."""
    try:
        return OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return None


def _is_quoted(read: Override) -> bool:
    return isinstance(read._value, QuotedString)


def _members(text: str) -> list[str]:
    return _MEMBER.findall(text)


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long for a name, or no path at all
        return False
