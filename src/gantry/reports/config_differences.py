"""Compares the options of runs, and finds the shortest labels that distinguish them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from gantry.core.config.declaration import within
from gantry.core.config.options import NOT_COMPARED
from gantry.core.config.overrides import short_keys
from gantry.reports.run import Run

IGNORED = [*NOT_COMPARED, "hydra", "variant", "dataset"]  # of the options and tags of a run
LABEL_KEYS = 3
NAME = 120  # characters of the name of a sweep


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


def summary(runs: Sequence[Run]) -> str:
    """Return what a sweep compares, such as `3 variants x 2 seeds on digits, 200 steps`; empty where no job began."""
    begun = [run for run in runs if "variant" in run.tags]
    own = [
        {"variant": run.variant, "data": run.tags.get("dataset"), "steps": run.params.get("steps")}
        | typed(run)
        | {"seed": run.seed}
        for run in begun
    ]
    found = {key: {one.get(key) for one in own} - {None} for key in dict.fromkeys(key for one in own for key in one)}
    values = {key: sorted(map(str, several), key=lambda text: (len(text), text)) for key, several in found.items()}
    if not begun:
        return ""
    swept = [key for key, several in values.items() if len(several) > 1 and key not in ("variant", "data", "steps")]
    variants = values["variant"]
    what = variants[0] if len(variants) == 1 else f"{len(variants)} variants"
    names = ["seeds" if key == "seed" else name for key, name in zip(swept, short_keys(swept), strict=True)]
    if math.prod(len(values[key]) for key in ("variant", "data", "steps", *swept) if values[key]) == len(begun):
        text = " x ".join([what, *(f"{len(values[key])} {name}" for key, name in zip(swept, names, strict=True))])
    else:
        text = f"{len(begun)} runs of {what}" + (f" over {', '.join(names)}" if names else "")
    data, steps = "/".join(values["data"]), "/".join(values["steps"])
    return f"{text}{f' on {data}' if data else ''}{f', {steps} steps' if steps else ''}"[:NAME]


def _distinguishing(alike: Sequence[Run]) -> list[list[str]]:
    """Return for each run the overrides that differ between the runs; where those are the same, its options."""
    given = [typed(run) for run in alike]
    keys = [key for key in dict.fromkeys(k for own in given for k in own) if len({t.get(key) for t in given}) > 1]
    table: dict[str, list[str | None]] = {key: [own.get(key) for own in given] for key in keys}
    if len(set(zip(*table.values(), strict=True))) < len(alike):
        table = dict(list(differences(alike).items())[:LABEL_KEYS])
    names = short_keys(list(table))
    return [
        [f"{name}={column[i]}" for name, column in zip(names, table.values(), strict=True) if column[i] is not None]
        for i in range(len(alike))
    ]


def typed(run: Run) -> dict[str, str]:
    """Return the overrides that can distinguish a run from others of its variant."""
    pairs = [override.lstrip("+~").partition("=")[::2] for override in run.overrides]
    return {key: value for key, value in pairs if key not in ("model", "data") and not within(key, IGNORED)}
