"""What differs between runs: their options side by side, and the shortest names that tell them apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gantry.report.runs import Run

NOT_COMPARED = ("paths.", "tracking.", "sweep.", "hydra.")  # options that do not change what a run learns
NOT_COMPARED_NAMES = ("log_every", "seed", "variant", "dataset")
LABEL_KEYS = 3


def config(run: Run) -> dict[str, str]:
    """The options of a run that shape what it learns, the seed left out."""
    return {
        key: value
        for key, value in run.params.items()
        if not key.startswith(NOT_COMPARED) and key not in NOT_COMPARED_NAMES and not key.endswith("._partial_")
    }


def differences(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """The options that are not the same in all of `runs`, each with its value in every run, None where absent."""
    configs = [config(run) for run in runs]
    keys = dict.fromkeys(key for options in configs for key in options)
    table = {key: [options.get(key) for options in configs] for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def labels(runs: Sequence[Run]) -> list[str]:
    """A short name for each run, all different: the variant, and where that is not enough what else differs."""
    found = []
    for run in runs:
        alike = [other for other in runs if other.variant == run.variant]
        words = _distinguishing(run, alike) if len(alike) > 1 else []
        found.append(" ".join([run.variant, *words]))
    return [
        label if found.count(label) == 1 else f"{label} ({found[: i + 1].count(label)})"
        for i, label in enumerate(found)
    ]


def _distinguishing(run: Run, alike: Sequence[Run]) -> list[str]:
    """What was typed for `run` and not for all of `alike`; where that does not tell them apart, its options."""
    given = [typed(other) for other in alike]
    keys = [key for key in dict.fromkeys(k for own in given for k in own) if len({t.get(key) for t in given}) > 1]
    table: dict[str, list[str | None]] = {key: [other.get(key) for other in given] for key in keys}
    if len(set(zip(*table.values(), strict=True))) < len(alike):
        table = dict(list(differences(alike).items())[:LABEL_KEYS])
    values = [column[alike.index(run)] for column in table.values()]
    return [f"{name}={value}" for name, value in zip(_short(list(table)), values, strict=True) if value is not None]


def _short(keys: Sequence[str]) -> list[str]:
    """The last word of each option's name, and as many before it as it takes to tell it from the others."""

    def ending(key: str, words: int) -> str:
        return ".".join(re.split(r"[./]", key)[-words:])

    longest = max((len(re.split(r"[./]", key)) for key in keys), default=0)
    return [
        next(
            (ending(key, n) for n in range(1, longest) if [ending(k, n) for k in keys].count(ending(key, n)) == 1), key
        )
        for key in keys
    ]


def typed(run: Run) -> dict[str, str]:
    """The overrides that could tell a run from others of its variant."""
    pairs = [override.lstrip("+~").partition("=")[::2] for override in run.overrides]
    ignored = ("model", "data", *NOT_COMPARED_NAMES)
    return {key: value for key, value in pairs if key not in ignored and not key.startswith(NOT_COMPARED)}
