"""Formats text for users: hides passwords, shortens paths, suggests close matches."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

# Passwords may contain / and @ unescaped: after a colon, everything up to the last @ is hidden.
_USERINFO = re.compile(r"://(?:[^\s/:@]*:\S*|[^\s/?#]*)@")
_QUERY = re.compile(r"(?i)([?&](?:password|passwd|pwd|token|secret|access_key)=)[^&\s\"']*")
# Names of environment variables that hold secrets; values shorter than `_LEAST` occur in text by chance.
_SECRET = re.compile(r"(?i)(?:TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|APIKEY|_KEY|_PWD)(?:_|$)")
_LEAST = 8

HIDDEN = "***"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest of `names`, or an empty string where none is close."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def show(path: Path) -> str:
    """Return a path relative to the working directory where it lies below it, else as it is."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def here(command: str) -> str:
    """Return what to type for a command of this Python's environment, which may not be the activated one."""
    beside = Path(sys.executable).parent / command
    on_path = shutil.which(command)
    if not beside.exists() or (on_path is not None and beside.samefile(on_path)):
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
    """Return `text` with its secrets replaced by ***.

    Secrets are the user, the password and the secret parameters of every address, and the values of environment
    variables whose names contain words such as TOKEN, PASSWORD, SECRET or KEY.
    """
    for value in _secrets():
        text = text.replace(value, HIDDEN)
    return _QUERY.sub(rf"\1{HIDDEN}", _USERINFO.sub(f"://{HIDDEN}@", text))


def _secrets() -> list[str]:
    """Return the secret values of the environment, longest first, since one may contain another; no file paths."""
    values = {value for name, value in os.environ.items() if len(value) >= _LEAST and _SECRET.search(name)}
    return sorted((value for value in values if not (value[0] in "/~" and Path(value).exists())), key=len, reverse=True)


def brief(error: BaseException, limit: int = 200) -> str:
    """Return an error in one line without passwords, root cause first, since network libraries wrap theirs."""
    root = error
    while (under := root.__cause__ or root.__context__) is not None:
        root = under
    text = " ".join(redact(f"{root}" if root is error else f"{root} ({error})").split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
