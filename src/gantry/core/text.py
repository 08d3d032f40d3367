"""Formats text for users: shortens paths and commands, suggests close matches."""

from __future__ import annotations

import difflib
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path


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

    Another program, such as the server of a page, says the script of the working directory.

    Args:
        name: `train`, `evaluate`, `sample` or `compare`; None: the one that runs.
    """
    started = Path(sys.argv[0]).absolute()
    if started.name.startswith("gantry-"):
        return here(f"gantry-{name}" if name else started.name)
    script = started.with_name(f"{name}.py") if name else started
    return f"{here('python')} {show(script) if script.exists() else f'{name or started.stem}.py'}"
