"""A metric: its name, which way is better, what it needs, and how it is computed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from hydra.errors import InstantiationException
from torch import Tensor

from gantry.core.config.instantiate import maker
from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import Extractor
from gantry.evaluation.features import Source
from gantry.evaluation.metrics import MEASURES
from gantry.evaluation.moments import Moments, moments
from gantry.evaluation.real_statistics import Reals

Need = Literal["logits", "labels", "sets"]
LOGITS: Need = "logits"  # of the extractor's network
LABELS: Need = "labels"  # logits that are those of the data set's own classes
SETS: Need = "sets"  # `Inputs.sets`, which python evaluate.py has and training has not
T = TypeVar("T")


class Sets(Protocol):
    """Images besides those compared with, each loaded or looked at when it is asked for."""

    @property
    def trained_on(self) -> ImageSet: ...
    @property
    def held_out(self) -> ImageSet | None: ...

    @property
    def source(self) -> Source:
        """The generated images by number."""

    def real_images(self, which: str) -> ImageSet:
        """The real images called "reference", "training" or "held-out"."""

    def reals(self, which: str) -> Reals:
        """Their features."""

    def generated(self, most: int) -> ImageSet:
        """The generated images, the first `most` of them; of files, all that were measured."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a metric may look at.

    Attributes:
        extractor: made the features.
        data: the real images.
        real: their features (m, d), the classes predicted, and what was computed from them before.
        features: of the generated images, (n, d) float32.
        logits: of the generated images, (n, k), where k is 0 if the extractor has none.
        images: the generated images by number, uint8; made again where they were not kept.
        kid_subsets: subsets in a Kernel Inception Distance.
        seed: of random subsets.
        sets: see `Sets`; None while training.
    """

    extractor: Extractor
    data: ImageSet
    real: Reals
    features: Tensor
    logits: Tensor
    images: Callable[[int, int], Tensor]
    kid_subsets: int
    seed: int = 0
    sets: Sets | None = None
    _computed: dict[Callable[[Inputs], Any], Any] = field(default_factory=dict)

    @cached_property
    def moments(self) -> Moments:
        """The generated images' moments."""
        return moments(self.features)

    def once(self, compute: Callable[[Inputs], T]) -> T:
        """What `compute` makes of these inputs, computed once for all the metrics that ask for it."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        return self._computed[compute]


@dataclass(frozen=True)
class Found:
    """What a metric found besides a number.

    Attributes:
        values: by name.
        details: what else belongs into the record, as JSON knows it.
        picture: uint8 (H, W, 3).
    """

    values: Mapping[str, float]
    details: Any = None
    picture: np.ndarray | None = None


@dataclass(frozen=True)
class Metric:
    """One way of judging generated images.

    Attributes:
        name: by which it is asked for.
        higher_is_better: the direction of its value; where it has several that differ, of each by name. A value with
            "_std" in its name has none.
        compute: gives its value, or its values by name, or `Found`.
        needs: without one of these it is left out.
        spread: from the inputs and the values, of some values the standard deviation over repeated draws of as many
            generated images; computed by python evaluate.py only.
        values: the names of its values; None: its own name.
        first_draw: of several draws of the images, it looks at the first one only.
    """

    name: str
    higher_is_better: bool | Mapping[str, bool]
    compute: Callable[[Inputs], float | Mapping[str, float] | Found]
    needs: Sequence[Need] = ()
    spread: Callable[[Inputs, Mapping[str, float]], Mapping[str, float]] | None = None
    values: Sequence[str] | None = None
    first_draw: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its values."""
        return (self.name,) if self.values is None else tuple(self.values)

    @property
    def directions(self) -> dict[str, bool]:
        """Of each value whether higher is better."""
        given = self.higher_is_better
        return {name: given[name] if isinstance(given, Mapping) else given for name in self.names if "_std" not in name}

    def found(self, inputs: Inputs) -> Found:
        """What it finds, whichever form `compute` gives it."""
        found = self.compute(inputs)
        if isinstance(found, Found):
            return found
        return Found(found if isinstance(found, Mapping) else {self.name: float(found)})


def built(measures: Sequence[str | Mapping[str, Any]]) -> list[Metric]:
    """The metrics that a config lists: by name, or as a `_target_` of one's own with its options.

    Raises:
        UserError: a metric of one's own cannot be made, or two metrics give a value of one name.
    """
    found = [
        importlib.import_module(f"{__package__}.{MEASURES[one]}").metric() if isinstance(one, str) else _own(one)
        for one in measures
    ]
    names = [name for metric in found for name in metric.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"measures: {', '.join(twice)} would be measured twice")
    return found


def _own(node: Mapping[str, Any]) -> Metric:
    target = node["_target_"]
    try:
        made = maker(dict(node))()
    except InstantiationException as error:
        why = str(error.__cause__ or error).splitlines()[-1]
        raise UserError(f"measures: {target} cannot be made: {why} (HYDRA_FULL_ERROR=1 shows where)") from error
    if not isinstance(made, Metric):
        raise UserError(f"measures: {target} must return a {Metric.__module__}.Metric, not {type(made).__name__}")
    return made
