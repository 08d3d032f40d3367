"""What is known of an exported generator: its own files say what it is, its run's how it was trained and measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gantry.core.files import read_json
from gantry.runs.folder import BEST, CONFIG_FILE, ENVIRONMENT, EVALUATIONS, GENERATOR, LAST, SUMMARY_FILE, TAGS_FILE
from gantry.runs.generator_files import GENERATOR_CONFIG, exported_step
from gantry.runs.generators import ExportedFiles


@dataclass(frozen=True)
class Facts:
    """A generator's record; what no file tells is empty or None.

    Attributes:
        network: generator.json: the class and its arguments.
        step: the generator step it is of.
        which: "best" or "last" of its run; None where it has no run, or is not what the run exported.
        config, summary, tags, environment: of its run.
        values: what its run measured of it, by name; None and NaN for what was not finite.
        evaluations: records of it by `python evaluate.py`, those of the most images last.
    """

    network: Mapping[str, Any]
    step: int | None
    which: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    evaluations: tuple[Mapping[str, Any], ...] = ()


def gather(source: Path, run: Path | None = None) -> Facts:
    """The facts of the generator in `source`, of which `run` is its run's folder.

    Only what was measured of these very weights is taken, as their sha256 tells.

    Raises:
        UserError: there is no readable generator.
    """
    step = exported_step(source)
    network = mapping(json.loads((source / GENERATOR_CONFIG).read_bytes()))
    if run is None:
        return Facts(network, step)
    digest = ExportedFiles(source, ()).digest()
    which = next((name for name in (BEST, LAST) if ExportedFiles(run / GENERATOR / name, ()).is_of(digest)), None)
    summary = mapping(read_json(run / SUMMARY_FILE))
    records = [mapping(read_json(path)) for path in sorted(run.glob(f"{EVALUATIONS}/*/*.json"))]
    own = [record for record in records if mapping(record.get("subject")).get("sha256") == digest]
    return Facts(
        network,
        step,
        which,
        config=_config(run / CONFIG_FILE),
        summary=summary,
        tags=mapping(read_json(run / TAGS_FILE)),
        environment=mapping(read_json(run / ENVIRONMENT)),
        values=_values(summary, which, step),
        evaluations=tuple(sorted(own, key=_images)),
    )


def mapping(value: object) -> Mapping[str, Any]:
    """The value, where it is a mapping; files from elsewhere may hold anything."""
    return value if isinstance(value, Mapping) else {}


def at(tree: object, key: str) -> Any:
    """The value at a dotted key, or None."""
    for part in key.split("."):
        tree = mapping(tree).get(part)
    return tree


def _images(record: Mapping[str, Any]) -> int:
    count = at(record, "settings.n_generated")
    return count if isinstance(count, int) else 0


def _values(summary: Mapping[str, Any], which: str | None, step: int | None) -> Mapping[str, Any]:
    """The summary's values of the step that these weights are of; those of the generator without averaging left out."""
    name, of = ("best", "best_step") if which == "best" else ("final", "steps")
    if which is None or (step is not None and step != summary.get(of)):
        return {}
    return {key: value for key, value in mapping(summary.get(name)).items() if not str(key).startswith("raw/")}


def _config(path: Path) -> Mapping[str, Any]:
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, OSError, ValueError, OmegaConfBaseException):
        return {}
    return mapping(OmegaConf.to_container(loaded)) if isinstance(loaded, DictConfig) else {}
