"""Chooses the champion of a registered model: the best version by one metric, among comparable ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantry.core.errors import UserError
from gantry.core.files import read_json
from gantry.core.text import did_you_mean, typed_command
from gantry.generation.export.facts import is_number, mapping
from gantry.runs.directions import HIGHER, higher_is_better, parse
from gantry.runs.folder import EVALUATIONS, SUMMARY_FILE

METRIC, VALUE, PROTOCOL = "metric", "value", "protocol"  # tags of a version
SHOWN = 3  # largest number of differing settings to name
DRAWN = ("seed", "draws")  # keys of an evaluation's subject on which its values depend, besides the settings


@dataclass(frozen=True)
class Measured:
    """A generator's quality.

    Attributes:
        metric: its name, such as `fid`.
        value: NaN if it could not be measured.
        protocol: all settings that determine the value besides the generator.
        higher_is_better: the metric's direction; None, if no record has it, means the direction by its name.
    """

    metric: str
    value: float
    protocol: Mapping[str, Any]
    higher_is_better: bool | None = None

    def __post_init__(self) -> None:
        if self.higher_is_better is None:
            object.__setattr__(self, "higher_is_better", higher_is_better(self.metric, {}) is True)

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags that store it in a registered version."""
        tags = {METRIC: self.metric, VALUE: repr(self.value), PROTOCOL: _text(self.protocol)}
        return tags | {HIGHER: _text(self.higher_is_better)}

    @property
    def text(self) -> str:
        return f"{self.metric} {self.value:.5g}"

    def beats(self, other: Measured) -> bool:
        """Return True if it is strictly better than a comparable `other`; NaN is never better."""
        if math.isnan(self.value) or math.isnan(other.value):
            return not math.isnan(self.value)
        return self.value > other.value if self.higher_is_better else self.value < other.value

    def apart(self, other: Measured) -> list[str]:
        """Return the settings in which two protocols differ, `n_generated: 2000 and 50000`; empty if comparable."""
        named = {"metric": self.metric, **self.protocol}, {"metric": other.metric, **other.protocol}
        keys = [key for key in {**named[0], **named[1]} if _text(named[0].get(key)) != _text(named[1].get(key))]
        return [f"{key}: {' and '.join(str(one.get(key, 'not said'))[:20] for one in named)}" for key in keys]


def from_tags(tags: Mapping[str, str]) -> Measured | None:
    """Read the tags of `Measured.tags`; None for a version that was not registered by Gantry."""
    try:
        higher = json.loads(tags.get(HIGHER, "null"))
        return Measured(tags[METRIC], float(tags[VALUE]), dict(json.loads(tags[PROTOCOL])), higher)
    except (KeyError, ValueError, TypeError):
        return None


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class Verdict:
    """The decision on the alias: True in `wins` if the new version gets it, and a sentence with the reason."""

    wins: bool
    why: str


def verdict(mine: Measured | None, champion: Measured | None, holder: str | None) -> Verdict:
    """Decide whether a new version replaces the champion.

    Args:
        mine: the quality of the new version; None if it was not measured.
        champion: the quality of the current one; None if it is not known.
        holder: the current champion's version; None if there is no champion.
    """
    if mine is None:
        return Verdict(
            False, f"it was not measured: {typed_command('evaluate')} run=... measures it, metric=... then names it"
        )
    if math.isnan(mine.value):
        return Verdict(False, f"its {mine.metric} is not a number")
    if holder is None:
        return Verdict(True, f"the first, with {mine.text}")
    stays = f"version {holder} stays the champion"
    if champion is None:
        return Verdict(False, f"{stays}: how good it is, it does not say")
    if differing := mine.apart(champion):
        more = ["..."] if len(differing) > SHOWN else []
        return Verdict(False, f"{stays}: it was measured otherwise ({'; '.join([*differing[:SHOWN], *more])})")
    if mine.beats(champion):
        return Verdict(True, f"its {mine.text} beats {champion.value:.5g} of version {holder}")
    return Verdict(False, f"{stays}: {champion.text}, and this one's {mine.value:.5g} is not better")


def measured(folder: Path, step: int | None, digest: str, raw: bool = False, metric: str | None = None) -> Measured:
    """Read the quality of a run's generator.

    Args:
        folder: the run's.
        step, digest: of the generator, see `gantry.runs.generators`.
        raw: True for the generator without averaging.
        metric: of training, `kid_classifier`, at its best or its last step; or of a record of `python evaluate.py`
            for exactly this generator, `papers/fid`, or `papers_1a2b3c4d/fid` if there are several. None: the metric
            by which training chose its best step.

    Raises:
        UserError: there is no such value.
    """
    if metric is not None and "/" in metric:
        return _evaluated(folder, digest, metric)
    summary = mapping(read_json(folder / SUMMARY_FILE))
    if not summary:
        choices = _choices(_records(folder, digest))
        others = f" metric=... of {', '.join(choices)}" if choices else f" {typed_command('evaluate')} measures it"
        raise UserError(f"metric: {folder} has no whole {SUMMARY_FILE}, so training has not ended;{others}")
    at = {summary.get("steps"): "final", summary.get("best_step"): "best"}.get(step)
    if at is None:
        raise UserError(
            f"metric: training measured the generators of steps {summary.get('best_step')} and {summary.get('steps')}, "
            f"and this one is of step {step}; metric=<protocol>/<name> takes what {typed_command('evaluate')} found"
        )
    prefix = "raw/" if raw else ""
    values = {
        name.removeprefix(prefix): value for name, value in mapping(summary.get(at)).items() if name.startswith(prefix)
    }
    values = {name: value for name, value in values.items() if _is_quality(name) and "/" not in name}
    name = metric or str(summary.get("primary"))
    if name not in values:
        choices = [*values, *_choices(_records(folder, digest))]
        raise UserError(f"metric={name}: not measured{did_you_mean(name, choices)} (valid: {', '.join(choices)})")
    higher = parse(summary.get(HIGHER)).get(name)
    return Measured(name, _number(values[name]), mapping(summary.get("protocol")), higher)


def _evaluated(folder: Path, digest: str, wanted: str) -> Measured:
    records = _records(folder, digest)
    protocol, _, name = wanted.rpartition("/")
    held = [record for record in records if name in record["values"] and _is_quality(name)]
    # The digest identifies the generator, so `papers-last` matches `papers` if the last one is registered.
    for match in (lambda r: protocol in (r["key"], r["protocol"]), lambda r: r["protocol"].split("-")[0] == protocol):
        matching = [record for record in held if match(record)]
        if len(matching) > 1:
            keys = ", ".join(f"{record['key']}/{name}" for record in matching)
            raise UserError(f"metric={wanted}: measured in {len(matching)} ways; name one of {keys}")
        if matching:
            drawn = {key: matching[0]["subject"].get(key) for key in DRAWN}
            settings = {**matching[0]["settings"], **drawn}
            higher = parse(matching[0].get(HIGHER)).get(name)
            return Measured(name, _number(matching[0]["values"][name]), settings, higher)
    choices = ", ".join(_choices(records)) or f"none yet: {typed_command('evaluate')} makes one"
    raise UserError(f"metric={wanted}: no such evaluation of this generator (valid: {choices})")


def _records(folder: Path, digest: str) -> list[Mapping[str, Any]]:
    """Return the evaluations of the generator with this digest."""
    records = [mapping(read_json(path)) for path in sorted(folder.glob(f"{EVALUATIONS}/*/*.json"))]
    wanted = ("key", "protocol", "values", "settings", "subject")
    whole = [record for record in records if all(record.get(key) for key in wanted)]
    return [record for record in whole if mapping(record["subject"]).get("sha256") == digest]


def _choices(records: list[Mapping[str, Any]]) -> list[str]:
    labels = [record["protocol"] for record in records]
    return [
        f"{record['protocol'] if labels.count(record['protocol']) == 1 else record['key']}/{name}"
        for record in records
        for name in record["values"]
        if _is_quality(name)
    ]


def _is_quality(name: str) -> bool:
    """Return True for a metric's value, False for its standard deviation, which has no direction."""
    return "_std" not in name


def _number(value: Any) -> float:
    """Return a value from a record; NaN for a missing or infinite one."""
    return float(value) if is_number(value) else math.nan
