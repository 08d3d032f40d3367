"""Compares the options of runs, and finds the shortest labels that distinguish them."""

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
    """Return the options of a run that affect what it learns, without the seed."""
    return {
        key: value for key, value in run.params.items() if not within(key, IGNORED) and not key.endswith("._partial_")
    }


def differences(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """Return the options that differ between `runs`, each with its value in every run, None where absent."""
    configs = [config(run) for run in runs]
    keys = dict.fromkeys(key for options in configs for key in options)
    table = {key: [options.get(key) for options in configs] for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a short unique label for each run: the variant, and where needed the options that differ."""
    of_variant: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        of_variant.setdefault(run.variant, []).append(place)
    names = [""] * len(runs)
    for variant, places in of_variant.items():
        words = _distinguishing([runs[place] for place in places])
        for place, own in zip(places, words, strict=True):
            names[place] = " ".join([variant, *own])
    total, so_far = Counter(names), Counter[str]()
    unique = []
    for label in names:
        so_far[label] += 1
        unique.append(label if total[label] == 1 else f"{label} ({so_far[label]})")
    return unique


def _distinguishing(alike: Sequence[Run]) -> list[list[str]]:
    """Return for each run the overrides that differ between the runs; where those are the same, its options."""
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


def typed(run: Run) -> dict[str, str]:
    """Return the overrides that can distinguish a run from others of its variant."""
    pairs = [override.lstrip("+~").partition("=")[::2] for override in run.overrides]
    return {key: value for key, value in pairs if key not in ("model", "data") and not within(key, IGNORED)}
