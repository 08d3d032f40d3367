"""Names, saves and prints the result of an evaluation; evaluations with other settings do not overwrite its files."""

from __future__ import annotations

import hashlib
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.core.files import read_json, write_json, write_png
from gantry.evaluation.stopwatch import written
from gantry.runs.folder import EVALUATIONS
from gantry.runs.tracking.environment import environment

if TYPE_CHECKING:
    import numpy as np


PREFIX = "eval/"  # of the metrics, `eval/<key>/<name>`
DESCRIPTION = "eval."  # prefix of the tag that describes a key in a line
CAVEATS = "caveats"  # ending of the tag that has what speaks against the values, a sentence a line
OWN_FIELDS = ("classes", "memorisation", "augmentation")  # of metrics' details, of which the others are in `details`
ADDED = ("values", "spread", "higher_is_better", "details")  # by name to what an earlier evaluation has measured
MERGED = (*ADDED, *OWN_FIELDS, "classifier")
WIDTH = 110  # columns of the line of seconds
CAS = ("generated", "real")  # images that the classifiers of `cas` learn from
LEAST = 3  # number of the least frequent classes to name


def curve_name(key: str, name: str) -> str:
    """Return the name of a value among a run's metrics."""
    return f"{PREFIX}{key}/{name}"


@dataclass(frozen=True)
class Result:
    """The values of an evaluation and its settings.

    Attributes:
        protocol: papers, test10k, quick or custom.
        step: the generator step; 0 of images.
        values: score by name, the first one first; NaN where it could not be computed.
        spread: of some of them, the standard deviation over draws of as many images.
        settings: all settings that determine the values besides the subject.
        subject: the measured images or generator, with its sha256 and the seed; of a generator also which one,
            the number of draws, and how its labels were drawn where it takes any.
        classes: of each class its share, 0 to 1, of the real and of the generated images.
        memorisation: distances of the generated images from the training images.
        augmentation: accuracies of classifiers trained on the generated images.
        details: further results of other metrics, by metric; of each class, where it has some.
        seconds: durations by task, and by part of a task as `fid / moments`; images are drawn while the network works.
        classifier: sha256 and accuracy of the classifier that predicted the classes.
        higher_is_better: by the name of each value that has a direction.
        pairs: the generated images nearest to a training image beside it, uint8 (H, W, 3).
        reference: where the real images are from.
        caveats: what speaks against the values, or makes other tools give others, a sentence each.
    """

    protocol: str
    step: int
    values: Mapping[str, float]
    spread: Mapping[str, float]
    settings: Mapping[str, Any]
    subject: Mapping[str, Any]
    classes: Mapping[str, tuple[float, float]] | None = None
    memorisation: Mapping[str, Any] | None = None
    augmentation: Mapping[str, Any] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    classifier: Mapping[str, Any] | None = None
    pairs: np.ndarray | None = None
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    reference: Mapping[str, Any] = field(default_factory=dict)
    caveats: Sequence[str] = ()

    @property
    def label(self) -> str:
        """The protocol and non-default choices of generator and draws: `papers-last-raw-seed1-draws3`."""
        has = self.subject
        unusual = {
            "last": has.get("generator") == "last",
            "raw": has.get("averaged") is False,
            f"seed{has.get('seed')}": has.get("seed", 0) != 0,
            f"draws{has.get('draws')}": has.get("draws", 1) != 1,
        }
        return "-".join([self.protocol, *(word for word, holds in unusual.items() if holds)])

    @property
    def key(self) -> str:
        """The label and a hash of the settings: equal for comparable values, of generators and of image files."""
        text = json.dumps(self.settings, sort_keys=True)
        return f"{self.label}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def description(self) -> str:
        """The settings in a line."""
        has, of = self.settings, self.subject
        what = f"{has['n_generated']:,} generated images"
        if "generator" in of:
            kind = "averaged" if of["averaged"] else "raw"
            draws = f", mean of {of['draws']} draws" if of["draws"] > 1 else ""
            labels = f", labels {of['labels']}" if "labels" in of else ""
            what += f" ({kind} generator of the {of['generator']} step, seed {of['seed']}{draws}{labels})"
        resize = "" if has["extractor_resize"] in ("none", "its own") else f", {has['extractor_resize']}"
        extractor = f"{has['extractor']} {has['extractor_sha256'][:8]}{resize}"
        ground = f", both on {has['ground']}" if "ground" in has else ""
        return f"{what} against {has['n_real']:,} real ones of {has['data']} ({has['split']}){ground}, {extractor}"

    @property
    def logged(self) -> dict[str, float]:
        """The values by their names in MLflow."""
        return {curve_name(self.key, name): value for name, value in self.values.items()}

    def save(self, folder: Path) -> list[Path]:
        """Write the result below `folder`; returns its files, the record first.

        Values that an earlier evaluation of the same generator with these settings measured and this one did not are
        kept; the record of another generator at the same step, and its picture, are renamed.
        """
        path = folder / EVALUATIONS / self.key / f"step_{self.step}.json"
        picture = path.with_name(f"closest_pairs_step_{self.step}.png")
        record = self._record()
        if (before := read_json(path)) is not None:
            if before.get("subject", {}).get("sha256") == self.subject["sha256"]:
                for name in MERGED:
                    both = isinstance(before.get(name), dict) and name in ADDED
                    record[name] = before[name] | record[name] if both else record[name] or before.get(name)
                record["caveats"] = list(dict.fromkeys([*(before.get("caveats") or ()), *record["caveats"]]))
            else:
                of = str(before.get("subject", {}).get("sha256"))[:8]
                for file in (path, picture):
                    if file.exists():
                        file.rename(file.with_name(f"{file.stem}_{of}{file.suffix}"))
        write_json(record, path)
        files = [path]
        if self.pairs is not None:
            files.append(picture)
            write_png(self.pairs, picture)
        return files

    def _record(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "protocol": self.label,
            "description": self.description,
            "step": self.step,
            "values": _finite(self.values),
            "spread": _finite(self.spread),
            "higher_is_better": dict(self.higher_is_better),
            "settings": dict(self.settings),
            "subject": dict(self.subject),
            "reference": dict(self.reference),
            "caveats": list(self.caveats),
            "classes": self.classes,
            "classifier": self.classifier,
            "memorisation": None if self.memorisation is None else _finite(self.memorisation),
            "augmentation": self.augmentation,
            "details": dict(self.details),
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "environment": environment(),
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        }

    def text(self) -> str:
        """Return the text shown to the user."""
        width = max(map(len, self.values), default=0)
        lines = ["", f"{self.key}: {self.description}", ""]
        for name, value in self.values.items():
            spread = f"  ± {self.spread[name]:.2g}" if name in self.spread else ""
            lines.append(f"  {name:{width}}  {value:>10.5g}{spread}")
        if self.spread:
            lines.append("  ± one standard deviation over draws of as many generated images")
        if self.subject.get("draws", 1) > 1 and (self.classes or self.memorisation or self.augmentation):
            lines.append("  classes, copies and what classifiers learn are of the first draw")
        if self.classes:
            lines += ["", *self._classes_text()]
        lines += self._by_class_text()
        if self.memorisation:
            lines += ["", *self._memorisation_text()]
        if self.augmentation:
            lines += [*([""] if self.values else []), *_augmentation_text(self.augmentation)]
        if self.caveats:
            lines += ["", *(f"but {caveat}" for caveat in self.caveats)]
        if self.seconds:
            lines += ["", *textwrap.wrap(f"seconds: {written(self.seconds)}", WIDTH, subsequent_indent="  ")]
        return "\n".join(lines)

    def _classes_text(self) -> list[str]:
        assert self.classes is not None
        shares = sorted(self.classes.items(), key=lambda item: item[1][1] / max(item[1][0], 1e-9))[:LEAST]
        named = (f"{name} {generated:.1%} (real {real:.1%})" for name, (real, generated) in shares)
        return [f"classes drawn least: {', '.join(named)}"]

    def _by_class_text(self) -> list[str]:
        """Name the classes that are recognised least, and those of the largest FIDs, a line a metric."""
        lines = []
        if asked := self.details.get("asked_class"):
            worst = sorted(asked.items(), key=lambda item: item[1]["accuracy"])[:LEAST]
            named = (f"{name} {of['accuracy']:.1%} of {of['generated']}" for name, of in worst)
            lines.append(f"classes recognised least: {', '.join(named)}")
        for code, of in self.details.get("code_agreement", {}).items():
            matched = ", ".join(f"{value}: {name}" for value, name in of["classes"].items())
            lines.append(f"code {code} agrees with the class of {of['agreement']:.1%} of the images: {matched}")
        for measure in ("intra_fid", "class_fid"):
            known = {name: of["fid"] for name, of in self.details.get(measure, {}).items() if of["fid"] is not None}
            if worst := sorted(known, key=lambda name: -known[name])[:LEAST]:
                lines.append(f"largest {measure} by class: {', '.join(f'{name} {known[name]:.4g}' for name in worst)}")
        if cas := self.details.get("cas"):
            lines.append(
                f"accuracy on {cas['n_test']:,} real images ({cas['test_split']}) of a small classifier trained on "
                + ", on ".join(f"{cas[kind]['images']:,} {kind} ones: {cas[kind]['mean']:.4f}" for kind in CAS)
            )
        return ["", *lines] if lines else []

    def _memorisation_text(self) -> list[str]:
        has = self.memorisation
        assert has is not None
        beside = "held-out real images" if has["held_out_images"] else "training images left out of the rest"
        return [
            f"memorisation: {has['copy_rate']:.2%} of the images are as near to a training image as the nearest "
            f"{has['copy_rate_expected']:.0%} of {beside} (± {has['copy_rate_std']:.2%} by chance);",
            f"  median distance {has['distance_ratio']:.3f} of theirs, {has['training_images']:,} training images",
        ]


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN and infinity by None, since JSON has no such numbers."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _augmentation_text(found: Mapping[str, Any]) -> list[str]:
    """Format accuracies by the number of real images, with their standard deviation over seeds."""
    cells: dict[tuple[int | None, str], str] = {}
    for row in found["trained"]:
        spread = "" if row["std"] is None else f" ± {row['std']:.3f}"
        cells[row["size"], row["diet"]] = f"{row['mean']:.3f}{spread}"
    lines = [
        f"accuracy on {found['n_test']:,} real images ({found['test_split']}) of a classifier trained on",
        f"  {'real images':>11}  {'real':>15}  {'generated':>15}  {'both':>15}   gain",
    ]
    for gain in found["gains"]:
        size = gain["size"]
        alone = cells.get((size, "generated"), cells.get((None, "generated"), ""))
        width = "" if gain["interval"] is None else f" ± {gain['interval']:.3f}"
        verdict = "" if gain["clear"] else ", no more than noise"
        shown = f"{cells[size, 'real']:>15}  {alone:>15}  {cells[size, 'real + generated']:>15}"
        lines.append(f"  {size:>11,}  {shown}   {gain['mean']:+.3f}{width}{verdict}")
    labels = "given" if found["labels"] == "given" else "by the classifier of the real images on the left"
    return [*lines, f"  labels of the generated images: {labels}", *(f"  {line}" for line in found["caveats"])]
