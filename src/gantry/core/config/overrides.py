"""Hydra overrides and the command that was typed."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from gantry.core.errors import UserError
from gantry.core.redaction import HIDDEN, redact

OWN_KEYS = ("sweep.", "hydra.", "hydra/", "resume=")  # overrides that do not change what a job computes

SWEEP_FLAGS = ("-m", "--multirun")


def command() -> list[str]:
    """Return the command of this process after the Python executable, with absolute paths, without overrides."""
    arguments = get_args_parser().parse_args()
    options = [
        text
        for name in ("config_path", "config_name", "config_dir")
        if (value := getattr(arguments, name)) is not None
        for text in (f"--{name.replace('_', '-')}", value)
    ]
    return [str(Path(sys.argv[0]).absolute()), *options]


def sweep_flag_first(arguments: Sequence[str]) -> list[str]:
    """Return a command line with -m before the overrides: argparse refuses those that follow a flag in their midst."""
    flags = [text for text in arguments if text in SWEEP_FLAGS]
    return [*flags, *(text for text in arguments if text not in SWEEP_FLAGS)]


def quoted(text: object) -> str:
    """Return any text, such as a path, as a value in Hydra's override grammar.

    There a backslash is literal, except before a quote.
    """
    ending = re.sub(r"(\\+)$", r"\1\1", str(text))
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", ending) + "'"


def identity(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides that identify a job, without those that only say where it is tracked."""
    return tuple(sorted(text for text in of_the_run(overrides) if not text.startswith(("tracking=", "tracking."))))


def without_passwords(before: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return the overrides of a resumed sweep or run, without those that `given` replaces.

    Raises:
        UserError: one of them held a password, which is not stored.
    """
    keys = {text.partition("=")[0] for text in given}
    kept = [text for text in before if text.partition("=")[0] not in keys]
    if hidden := [text for text in kept if HIDDEN in text]:
        raise UserError(f"{hidden[0]}: the password was not kept; give {hidden[0].partition('=')[0]}=... again")
    return kept


def of_the_run(overrides: Sequence[str]) -> list[str]:
    """Return the overrides without those of the sweep's execution and without the run to resume."""
    return [text for text in overrides if not text.lstrip("+~").startswith(OWN_KEYS)]


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return for each job the overrides that not all jobs share; for a single job, all."""
    mine = [of_the_run(overrides) for overrides in jobs]
    shared = set(mine[0]).intersection(*mine[1:]) if len(mine) > 1 else set()
    return [redact(" ".join(text for text in overrides if text not in shared)) or "defaults" for overrides in mine]


def short_keys(keys: Sequence[str]) -> list[str]:
    """Return the shortest ending of each option's name, in whole words, that is unique among the others."""

    def ending(key: str, words: int) -> str:
        return ".".join(re.split(r"[./]", key)[-words:])

    longest = max((len(re.split(r"[./]", key)) for key in keys), default=0)
    return [
        next(
            (ending(key, n) for n in range(1, longest) if [ending(k, n) for k in keys].count(ending(key, n)) == 1), key
        )
        for key in keys
    ]


def swept(overrides: Sequence[str], typed: Sequence[str]) -> dict[str, str]:
    """Return the options of a job that may differ in other jobs of its sweep, with their values.

    Args:
        overrides: the job's.
        typed: the sweep's, as on its command line; a search takes further options from its config.
    """
    fixed = {
        override.get_key_element()
        for override in OverridesParser.create().parse_overrides(list(typed))
        if not override.is_sweep_override()
    }
    pairs = [text.partition("=")[::2] for text in of_the_run(overrides)]
    return {key.lstrip("+~"): value for key, value in pairs if key not in fixed}


def split_overrides(text: str) -> list[str]:
    """Split a command line that was joined by blanks into its overrides, each of which begins with a `key=`."""
    return re.split(r"\s+(?=(?:\+\+?|~)?[A-Za-z_][\w./@-]*=)", text) if text else []
