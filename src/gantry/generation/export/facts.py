"""Gathers the facts for a generator's model card from its own files and from its run's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gantry.core.files import read_json
from gantry.runs.folder import BEST, CONFIG_FILE, ENVIRONMENT, EVALUATIONS, GENERATOR, LAST, SUMMARY_FILE, TAGS_FILE
from gantry.runs.generator_metadata import GENERATOR_CONFIG, exported_classes, exported_step
from gantry.runs.generators import ExportedFiles

LARGEST = 1e300  # larger values are no measurements; comparing with it excludes NaN too
PREPARED = ("split", "image_size", "channels", "flip")  # keys of a data set's config; paths and addresses are left out
PACKAGES = ("torch", "pytorch-lightning", "gantry-gan")


def gather(source: Path, run: Path | None = None) -> dict[str, Any]:
    """Gather the facts of the generator in `source`, with its run's folder `run`; unknown ones are empty or None.

    Only measurements of exactly these weights, by their sha256, are included.

    Returns:
        `network` (generator.json); `labels`, the names of the classes it takes labels of, empty where it takes none;
        `which` of its run's exports it is, "best" or "last"; `step` of `steps`; `config`,
        `summary` and `tags` of its run; `variant`, `dataset`; `data` in the config, of that what it was `prepared`
        with, its `classes`, and the `reference` for measuring; `versions` of packages; `measured`, a record for the
        run and for each evaluation, those of the most images last; and what `_limits` returns.

    Raises:
        UserError: there is no readable generator.
    """
    step = exported_step(source)
    network = mapping(json.loads((source / GENERATOR_CONFIG).read_bytes()))
    which, config = None, mapping(None)
    summary = tags = environment = config
    measured: list[dict[str, Any]] = []
    if run is not None:
        digest = ExportedFiles(source, ()).digest()
        of_run = (name for name in (BEST, LAST) if ExportedFiles(run / GENERATOR / name, ()).is_of(digest))
        which = next(of_run, None)
        config, summary = _config(run / CONFIG_FILE), mapping(read_json(run / SUMMARY_FILE))
        tags, environment = (mapping(read_json(run / name)) for name in (TAGS_FILE, ENVIRONMENT))
        if values := _values(summary, which, step):
            final = summary.get("classes") if step in (None, summary.get("steps")) else None
            measured.append({"values": values, "settings": mapping(summary.get("protocol")), "classes": final})
            measured[-1]["caveats"] = summary.get("caveats")
        measured += _evaluations(run, digest)
    data, protocol = mapping(config.get("data")), mapping(summary.get("protocol"))
    packages = {"python": environment.get("python"), **mapping(environment.get("packages"))}
    return {
        "network": network,
        "labels": list(classes.names) if (classes := exported_classes(source)) else [],
        "step": step,
        "steps": summary.get("steps", config.get("steps")),
        "which": which,
        "config": config,
        "summary": summary,
        "tags": tags,
        "variant": summary.get("variant") or tags.get("variant"),
        "dataset": summary.get("dataset") or tags.get("dataset"),
        "data": data,
        "classes": mapping(summary.get("classes")),
        "prepared": {name: data[name] for name in PREPARED if name in data},
        "reference": protocol or {name[8:]: value for name, value in tags.items() if name.startswith("metrics.")},
        "versions": [(name, packages[name]) for name in ("python", *PACKAGES) if packages.get(name)],
        "measured": measured,
        **_limits(measured),
    }


def mapping(value: object) -> Mapping[str, Any]:
    """Return the value if it is a mapping, or else an empty one; files may contain anything."""
    return value if isinstance(value, Mapping) else {}


def is_number(value: object) -> TypeGuard[float]:
    """Return True for a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _config(path: Path) -> Mapping[str, Any]:
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, OSError, ValueError, OmegaConfBaseException):
        return {}
    return mapping(OmegaConf.to_container(loaded)) if isinstance(loaded, DictConfig) else {}


def _values(summary: Mapping[str, Any], which: str | None, step: int | None) -> Mapping[str, Any]:
    """Return the summary's values at the step of these weights, without those of the generator without averaging."""
    name, of = ("best", "best_step") if which == "best" else ("final", "steps")
    if which is None or (step is not None and step != summary.get(of)):
        return {}
    return {key: value for key, value in mapping(summary.get(name)).items() if not str(key).startswith("raw/")}


def _evaluations(run: Path, digest: str) -> list[dict[str, Any]]:
    """Return the run's evaluations of the weights with this digest, those with the most images last."""
    records = [mapping(read_json(path)) for path in sorted(run.glob(f"{EVALUATIONS}/*/*.json"))]
    own = [dict(record) for record in records if mapping(record.get("subject")).get("sha256") == digest]
    for record in own:
        record |= {name: mapping(record.get(name)) for name in ("values", "settings", "spread")} | {"afterwards": True}
    return sorted(own, key=lambda record: n if isinstance(n := record["settings"].get("n_generated"), int) else 0)


def _limits(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the limits of a generator and of its measurements.

    Returns:
        `most`, the largest number of images it was measured on; `by_classifier` and its `accuracy`;
        `caveats`, what was found to speak against the values; `seen_in_training`, of the real images; `shares`, of
        its images and of the real ones by class, the class that
        it draws least for its share first; `copies`, how many of its images are near to training images.
    """
    settings = [record["settings"] for record in measured]
    accuracies = [value for one in settings if is_number(value := one.get("classifier_accuracy"))]
    classes = next((record["classes"] for record in reversed(measured) if record.get("classes")), None)
    shares = [
        {"name": name, "real": pair[0], "made": pair[1]}
        for name, pair in mapping(classes).items()
        if isinstance(pair, list | tuple) and len(pair) == 2 and all(map(is_number, pair)) and pair[0] > 0
    ]
    return {
        "most": max((value for one in settings if is_number(value := one.get("n_generated"))), default=None),
        "by_classifier": any(one.get("extractor") == "classifier" for one in settings),
        "accuracy": accuracies[-1] if accuracies else None,
        "caveats": list(dict.fromkeys(str(one) for record in measured for one in _listed(record.get("caveats")))),
        "seen_in_training": any(one.get("split") in ("train", "all") for one in settings),
        "shares": sorted(shares, key=lambda share: share["made"] / share["real"]),
        "copies": next(filter(None, map(_copies, reversed(measured))), None),
    }


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _copies(record: Mapping[str, Any]) -> dict[str, Any] | None:
    memorisation = mapping(record.get("memorisation"))
    rates = {
        name: memorisation.get(f"copy_rate{ending}")
        for name, ending in (("rate", ""), ("expected", "_expected"), ("std", "_std"))
    }
    if not all(map(is_number, rates.values())):
        return None
    return {**rates, "images": record["settings"].get("n_generated"), "held_out": memorisation.get("held_out_images")}
