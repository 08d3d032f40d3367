"""What differs between runs: their options side by side, and the shortest names that tell them apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from gantry.core.config.declaration import within
from gantry.core.config.options import NOT_COMPARED
from gantry.reports.run import Run

IGNORED = [*NOT_COMPARED, "hydra", "variant", "dataset"]  # of the options and tags of a run
LABEL_KEYS = 3


def config(run: Run) -> dict[str, str]:
    """The options of a run that shape what it learns, the seed left out."""
    return {
        key: value for key, value in run.params.items() if not within(key, IGNORED) and not key.endswith("._partial_")
    }


def differences(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """The options that are not the same in all of `runs`, each with its value in every run, None where absent."""
    configs = [config(run) for run in runs]
    keys = dict.fromkeys(key for options in configs for key in options)
    table = {key: [options.get(key) for options in configs] for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def labels(runs: Sequence[Run]) -> list[str]:
    """A short name for each run, all different: the variant, and where that is not enough what else differs."""
    of_variant: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        of_variant.setdefault(run.variant, []).append(place)
    found = [""] * len(runs)
    for variant, places in of_variant.items():
        words = _distinguishing([runs[place] for place in places])
        for place, own in zip(places, words, strict=True):
            found[place] = " ".join([variant, *own])
    total, so_far = Counter(found), Counter[str]()
    unlike = []
    for label in found:
        so_far[label] += 1
        unlike.append(label if total[label] == 1 else f"{label} ({so_far[label]})")
    return unlike


def _distinguishing(alike: Sequence[Run]) -> list[list[str]]:
    """Of each run what was typed for it and not for all; where that does not tell them apart, its options."""
    given = [typed(run) for run in alike]
    keys = [key for key in dict.fromkeys(k for own in given for k in own) if len({t.get(key) for t in given}) > 1]
    table: dict[str, list[str | None]] = {key: [own.get(key) for own in given] for key in keys}
    if len(set(zip(*table.values(), strict=True))) < len(alike):
        table = dict(list(differences(alike).items())[:LABEL_KEYS])
    names = _short(list(table))
    return [
        [f"{name}={column[i]}" for name, column in zip(names, table.values(), strict=True) if column[i] is not None]
        for i in range(len(alike))
    ]


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
    return {key: value for key, value in pairs if key not in ("model", "data") and not within(key, IGNORED)}
