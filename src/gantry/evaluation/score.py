"""Computes and names the metrics of generated images, for training and for evaluate.py."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gantry.evaluation.extractors.extractor import Extractor
from gantry.evaluation.metrics.metric import LABELS, LOGITS, Inputs, Metric, Need
from gantry.evaluation.protocol import suffix


@dataclass(frozen=True)
class Scores:
    """The results of the metrics.

    Attributes:
        values: by name, with a suffix for the protocol if it is not the papers'.
        spread: of some of them the standard deviation over draws of as many images.
        details: further results by metric.
        pictures: by metric.
        caveats: what speaks against the values, a sentence each.
    """

    values: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    caveats: list[str] = field(default_factory=list)


def score(
    metrics: Sequence[Metric],
    inputs: Inputs,
    judged: Inputs | None = None,
    spread: bool = False,
    watch: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Scores:
    """Compute the metrics of one draw of generated images.

    Args:
        inputs: the inputs of most metrics.
        judged: the inputs of metrics that need labels; None: the same.
        spread: compute the values' spread over draws too.
        watch: entered with each metric's name while it computes.
    """
    scores = Scores()
    for metric in metrics:
        given = judged if judged is not None and LABELS in metric.needs else inputs
        with watch(metric.name):
            result = metric.found(given)
            spreads = metric.spread(given, result.values) if spread and metric.spread else {}
        after = ending(metric, given.extractor, len(given.features), given.data.split)
        scores.values.update(_named(result.values, after))
        scores.spread.update(_named(spreads, after))
        if result.details is not None:
            scores.details[metric.name] = result.details
        if result.picture is not None:
            scores.pictures[metric.name] = result.picture
        scores.caveats.extend(result.caveats)
    return scores


def _named(values: Mapping[str, float], after: str) -> dict[str, float]:
    return {name + after: value for name, value in values.items()}


def ending(metric: Metric, extractor: Extractor, n_generated: int, split: str) -> str:
    """Return what follows the names of a metric's values: `suffix`, or nothing where they do not depend on that."""
    return suffix(extractor, n_generated, split) if metric.suffixed else ""


def lacking(metric: Metric, extractor: Extractor, met: Mapping[Need, bool]) -> Need | None:
    """Return the first requirement of a metric that is not met; "sets" is none of those that are looked at.

    Args:
        extractor: computes the features.
        asked: whether classes were asked of the generated images.
        met: whether classes were asked of the generated images, their latents have categorical codes, the generator has
            an encoder for images as they are measured, and the real images have labels of two classes or more.

    Returns:
        None if all are met.
    """
    given = {LOGITS: extractor.has_logits, LABELS: extractor.labelled, **met}
    return next((need for need in metric.needs if not given.get(need, True)), None)
