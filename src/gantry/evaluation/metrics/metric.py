"""Defines metrics: name, direction, requirements and computation."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from torch import Tensor

from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import Extractor
from gantry.evaluation.metrics import MEASURES
from gantry.evaluation.moments import Moments, moments
from gantry.evaluation.placement import placed

if TYPE_CHECKING:  # the metrics' functions of features need neither Hydra nor the files of features
    from gantry.evaluation.encoder import Encoder
    from gantry.evaluation.features import Source
    from gantry.evaluation.real_statistics import Reals

Need = Literal[
    "logits",
    "labels",
    "asked classes",
    "categorical codes",
    "sets",
    "an encoder",
    "real images with classes",
]
LOGITS: Need = "logits"  # of the extractor's network
LABELS: Need = "labels"  # logits that are those of the data set's own classes
ASKED: Need = "asked classes"  # `Inputs.asked`, which images of a generator without labels have not
CODES: Need = "categorical codes"  # `Inputs.codes`, which a generator has whose latents have such parts
SETS: Need = "sets"  # `Inputs.sets`, which python evaluate.py has and training has not
ENCODER: Need = "an encoder"  # `Inputs.encoder`, which most generators have not
CLASSED: Need = "real images with classes"  # labels of two classes or more beside `Inputs.data`
T = TypeVar("T")


class Sets(Protocol):
    """Further sets of images; each is loaded, and its features computed, at first use."""

    @property
    def trained_on(self) -> ImageSet: ...
    @property
    def held_out(self) -> ImageSet | None: ...

    @property
    def source(self) -> Source:
        """Return the generated images by number."""

    def real_images(self, which: str) -> ImageSet:
        """Return the real images called "reference", "training" or "held-out"."""

    def reals(self, which: str) -> Reals:
        """Return the features of the real images called so."""

    def generated(self, count: int) -> ImageSet:
        """Return the first `count` generated images, of files all that were measured, with asked classes as labels."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of a metric.

    Attributes:
        extractor: computed the features.
        data: the real images.
        real: their features (m, d), the predicted classes, and cached results derived from them.
        features: of the generated images, (n, d) float32.
        logits: of the generated images, (n, k), where k is 0 if the extractor has none.
            Both are on the CPU, as the real ones are; `placed` and `both_placed` are where metrics compute.
        images: the generated images by number, uint8; generated again if they were not stored.
        kid_subsets: subsets in a Kernel Inception Distance.
        seed: of random subsets.
        asked: the class that was asked of each generated image, int64 (n,), an index into the data's classes, on the
            CPU; of images from files, their labels. None where no classes were asked.
        codes: the categorical codes of each generated image's latent by name, int64 (n,), on the CPU; empty where its
            generator has none.
        sets: see `Sets`; None while training.
        encoder: of the generator; None where it has none, or the images have been laid on a ground.
        watch: entered with the name of a part of the work, whose seconds it measures.
    """

    extractor: Extractor
    data: ImageSet
    real: Reals
    features: Tensor
    logits: Tensor
    images: Callable[[int, int], Tensor]
    kid_subsets: int
    seed: int = 0
    asked: Tensor | None = None
    codes: Mapping[str, Tensor] = field(default_factory=dict)
    sets: Sets | None = None
    encoder: Encoder | None = None
    watch: Callable[[str], AbstractContextManager[object]] = nullcontext
    _computed: dict[Callable[[Inputs], Any], Any] = field(default_factory=dict)

    @cached_property
    def moments(self) -> Moments:
        """The generated images' moments, where metrics compute."""
        with self.watch("moments"):
            return moments(self.features, copy=self.placed)

    @cached_property
    def placed(self) -> Tensor:
        """The features of the generated images on the extractor's GPU, or on the CPU."""
        return placed(self.extractor.device, self.features)[0]

    @cached_property
    def both_placed(self) -> tuple[Tensor, Tensor]:
        """The features of the real and of the generated images on one device."""
        real, generated = placed(self.extractor.device, self.real.features, self.placed)
        return real, generated

    def once(self, compute: Callable[[Inputs], T]) -> T:
        """Return `compute(self)`, computed once for all metrics that use it."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        return self._computed[compute]


@dataclass(frozen=True)
class Found:
    """The result of a metric: values, details for the record and a picture.

    Attributes:
        values: by name.
        details: further results for the record, as JSON values.
        picture: uint8 (H, W, 3).
        caveats: what speaks against the values, a sentence each.
    """

    values: Mapping[str, float]
    details: Any = None
    picture: np.ndarray | None = None
    caveats: Sequence[str] = ()


@dataclass(frozen=True)
class Metric:
    """One metric of generated images.

    Attributes:
        name: its name in `measures`.
        higher_is_better: the direction of its value, or the directions of several values by name. A value with "_std"
            in its name has none.
        compute: gives its value, or its values by name, or `Found`.
        needs: its requirements; if one is not met, the metric is left out.
        spread: computes, from the inputs and the values, the standard deviation of some values over repeated draws of
            as many generated images; used by python evaluate.py only.
        values: the names of its values; None: its own name.
        first_draw: of several draws of the images, it uses the first one only.
        suffixed: its values depend on the extractor and the number of generated images, which their names then say.
    """

    name: str
    higher_is_better: bool | Mapping[str, bool]
    compute: Callable[[Inputs], float | Mapping[str, float] | Found]
    needs: Sequence[Need] = ()
    spread: Callable[[Inputs, Mapping[str, float]], Mapping[str, float]] | None = None
    values: Sequence[str] | None = None
    first_draw: bool = False
    suffixed: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its values."""
        return (self.name,) if self.values is None else tuple(self.values)

    @property
    def directions(self) -> dict[str, bool]:
        """By the name of each value, True if higher is better."""
        given = self.higher_is_better
        return {name: given[name] if isinstance(given, Mapping) else given for name in self.names if "_std" not in name}

    def found(self, inputs: Inputs) -> Found:
        """Compute the metric and convert its result to `Found`."""
        result = self.compute(inputs)
        if isinstance(result, Found):
            return result
        return Found(result if isinstance(result, Mapping) else {self.name: float(result)})


def built(measures: Sequence[str | Mapping[str, Any]]) -> list[Metric]:
    """Create the metrics that a config lists: by name, or by a user's `_target_` with its options.

    Raises:
        UserError: a user's metric cannot be created, or two metrics have a value of the same name.
    """
    metrics = [
        importlib.import_module(f"{__package__}.{MEASURES[one]}").metric() if isinstance(one, str) else _own(one)
        for one in measures
    ]
    names = [name for metric in metrics for name in metric.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"measures: {', '.join(twice)} would be measured twice")
    return metrics


def _own(node: Mapping[str, Any]) -> Metric:
    from hydra.errors import InstantiationException

    from gantry.core.config.instantiate import maker

    target = node["_target_"]
    try:
        made = maker(dict(node))()
    except InstantiationException as error:
        why = str(error.__cause__ or error).splitlines()[-1]
        raise UserError(f"measures: {target} cannot be made: {why} (HYDRA_FULL_ERROR=1 shows where)") from error
    if not isinstance(made, Metric):
        raise UserError(f"measures: {target} must return a {Metric.__module__}.Metric, not {type(made).__name__}")
    return made
