"""Reads from the options of sample.py which classes its images are to have."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from gantry.core.errors import UserError
from gantry.generation.classes import MOST_ROWS, in_turn, label_of, labels_of, said, valid
from gantry.models.labels import Classes, LabelSource

MOST_SHOWN = 1024  # images in a grid
MOST_IN_NAME = 60  # characters of a picture's name that say the classes


def asked_labels(cfg: DictConfig, classes: Classes | None, title: str, mode: str) -> LabelSource | None:
    """Return the labels of the images that are asked for; None where the generator takes none.

    Where no class is asked for, many images have labels as often as in the data, a grid a class a row, walks and the
    starts of a projection all classes in turn, and a plane the first class. Prints which, where classes are left out.

    Args:
        cfg: of sample.py.
        classes: of the generator; None where it takes no labels.
        title: of the generator.
        mode: of sample.py, "" for drawing images.

    Raises:
        UserError: it takes none and is asked for a class, or there is no such class.
    """
    one, several = cfg["class"], list(cfg.classes)
    if classes is None:
        if asked := [name for name in ("class", "classes", "between") if cfg[name] not in (None, [])]:
            raise UserError(f"{asked[0]}: {title} takes no labels, so it cannot be asked for a class")
        return None
    if one is not None:
        return in_turn(classes, [label_of(classes, one)])
    if mode == "" and cfg.out is not None and Path(str(cfg.out)).suffix.lower() != ".png" and not several:
        return LabelSource(classes.shares)
    named = labels_of(classes, several) or tuple(range(len(classes)))
    if mode == "between":
        _check_between(classes, named, cfg.between)
    most = {"": min(MOST_ROWS, cfg.n), "latent_grid": 1}.get(mode, len(named))
    if several or len(named) <= most:
        return in_turn(classes, named)
    if most == 1:
        print(f"of class {said(classes, 0)}; class=... chooses another", flush=True)
    else:
        print(f"of the first {most} of {len(classes)} classes; classes=[...] chooses others", flush=True)
    return in_turn(classes, named[:most])


def _check_between(classes: Classes, named: Sequence[int], steps: int) -> None:
    """Refuse classes between which there is nothing, or too much for a row."""
    if len(named) < 2:
        raise UserError(
            f"classes: a grid between classes takes two or more, not {said(classes, named[0])} alone "
            f"(valid: {valid(classes)})"
        )
    if twice := [one for one, other in itertools.pairwise(named) if one == other]:
        raise UserError(
            f"classes: {said(classes, twice[0])} follows itself, and there is nothing in between: name another class "
            f"after it (valid: {valid(classes)})"
        )
    if (columns := (len(named) - 1) * steps + 1) > MOST_SHOWN:
        raise UserError(
            f"between: a grid has {MOST_SHOWN} images at most in a row; {len(named)} classes with between={steps} are "
            f"{columns}"
        )


def in_name(cfg: DictConfig, labels: LabelSource | None) -> str:
    """Return the part of a picture's name that says how it was truncated, and which classes were asked for."""
    text = "" if cfg.truncation is None else f"_truncation{cfg.truncation:g}"
    if labels is None or labels.cycle is None or not (cfg.classes or cfg["class"] is not None):
        return text
    numbers = "-".join(map(str, labels.cycle))
    return f"{text}_class{numbers}" if len(numbers) <= MOST_IN_NAME else f"{text}_{len(labels.cycle)}_classes"
