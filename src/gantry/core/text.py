"""Text for people: passwords hidden, paths short, close matches named."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

# Passwords may hold / and @ unescaped: after a colon, all up to the last @ is hidden, rather than too little.
_USERINFO = re.compile(r"://(?:[^\s/:@]*:\S*|[^\s/?#]*)@")
_QUERY = re.compile(r"(?i)([?&](?:password|passwd|pwd|token|secret|access_key)=)[^&\s\"']*")
# Names of environment variables that hold secrets; values shorter than this are too common to be looked for in text.
_SECRET = re.compile(r"(?i)(?:TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|APIKEY|_KEY|_PWD)(?:_|$)")
_LEAST = 8

HIDDEN = "***"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest of `names`, or nothing where none is close."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def show(path: Path) -> str:
    """A path as short as it can be typed from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def here(command: str) -> str:
    """How to type a command of this Python's environment, which need not be the activated one."""
    beside = Path(sys.executable).parent / command
    found = shutil.which(command)
    if not beside.exists() or (found is not None and beside.samefile(found)):
        return command
    return show(beside)


def typed_command(name: str | None = None) -> str:
    """Say how to type a command of Gantry the way that this process was started: as a script, or an installed command.

    Args:
        name: `train`, `evaluate`, `sample` or `compare`; None: the one that runs.
    """
    started = Path(sys.argv[0]).absolute()
    if started.name.startswith("gantry-"):
        return here(f"gantry-{name}" if name else started.name)
    return f"{here('python')} {show(started.with_name(f'{name}.py') if name else started)}"


def redact(text: str) -> str:
    """`text` with what is secret in it written as ***.

    That is the user and password and the secret parameters of every address, and the values of environment
    variables whose names say that they hold a token, a password, a secret or a key.
    """
    for value in _secrets():
        text = text.replace(value, HIDDEN)
    return _QUERY.sub(rf"\1{HIDDEN}", _USERINFO.sub(f"://{HIDDEN}@", text))


def _secrets() -> list[str]:
    """The longest first, since one may hold another; a file's path is none."""
    values = {value for name, value in os.environ.items() if len(value) >= _LEAST and _SECRET.search(name)}
    return sorted((value for value in values if not (value[0] in "/~" and Path(value).exists())), key=len, reverse=True)


def brief(error: BaseException, limit: int = 200) -> str:
    """An error in a line without passwords; what lies under a network library's is said first."""
    root = error
    while (under := root.__cause__ or root.__context__) is not None:
        root = under
    text = " ".join(redact(f"{root}" if root is error else f"{root} ({error})").split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
