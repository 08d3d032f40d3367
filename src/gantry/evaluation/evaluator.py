"""Measures a generator against the real images of a data set."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from gantry.core.config.options import WHILE_TRAINING
from gantry.core.determinism import whole_float32
from gantry.core.errors import UserError
from gantry.data.alpha import on_ground
from gantry.data.images import ImageSet
from gantry.evaluation.asked import can_classify
from gantry.evaluation.encoder import Encoder
from gantry.evaluation.extractors.extractor import Extractor, Features
from gantry.evaluation.ground import measured
from gantry.evaluation.metrics import inception_score, kid
from gantry.evaluation.metrics.metric import ASKED, CLASSED, CODES, ENCODER, SETS, Inputs, Metric, built
from gantry.evaluation.protocol import protocol
from gantry.evaluation.real_statistics import real_features
from gantry.evaluation.score import ending, lacking, score

logger = logging.getLogger(__name__)

BATCH = 512  # images asked for at a time
UNLOGGED = ("kid_std",)  # values that python evaluate.py alone records
T = TypeVar("T")


class Group(Protocol):
    """The ranks that share a measurement (`gantry.training.distributed.peers.Peers`)."""

    rank: int
    world_size: int

    @property
    def first(self) -> bool:
        """True on rank 0."""

    def tell(self, value: T) -> T:
        """Broadcast rank 0's `value` and return it on every rank."""

    def gather(self, part: Tensor, most: int) -> list[Tensor]:
        """Gather the ranks' parts (n_rank, d), of at most `most` rows each, on rank 0 in order; elsewhere return []."""


@dataclass(frozen=True)
class Alone:
    """The `Group` of a single process."""

    rank: int = 0
    world_size: int = 1
    first: bool = True

    def tell(self, value: T) -> T:
        return value

    def gather(self, part: Tensor, most: int) -> list[Tensor]:
        return [part]


@dataclass(frozen=True)
class Evaluation:
    """One measurement.

    Attributes:
        values: score by name, the primary one first; all NaN when the features are not finite.
        protocol: the settings needed to compare them: extractor, weights, counts, split, data.
        seconds: duration.
        classes: for each of the data set's classes its share, 0 to 1, of the real and of the generated images,
            as predicted by the classifier; None where the extractor does not know the classes, or the
            features are not finite.
    """

    values: dict[str, float]
    protocol: dict[str, str | int | float]
    seconds: float
    classes: dict[str, tuple[float, float]] | None = None


class Evaluator:
    """Scores generators against all images of `data`, whose features are computed once and kept on disk.

    Draws no random numbers of its own, so that training is the same with it and without.

    Args:
        extractor: computes the features of the images.
        data: the real images, measured as they are, never mirrored. With alpha they are laid on a ground
            (`gantry.evaluation.ground.measured`), generated images too.
        n_generated: generated images in each measurement, at least 10, the Inception Score's splits.
        cache: folder of everything that can be computed again; the features go to `cache`/features.
        peers: the ranks that share the generated images; rank 0 collects their features and scores them.
        metrics: the metrics, the primary one first; those that need logits, labels, asked classes or codes are
            left out where there are none. None: those of `gantry.core.config.options.WHILE_TRAINING`.
        asked: the classes asked of the generated images, int64 (n_generated,), indices into the data's; None where the
            generator takes no labels.
        codes: the categorical codes of their latents by name, int64 (n_generated,); None or empty where there are none.
        encodes: whether the generator has an encoder.

    Attributes:
        names: the recorded name of each value.
        higher_is_better: by that name, True if higher is better.
        caveats: what speaks against the values, a sentence each; a measurement may add to them.

    Raises:
        UserError: too few real or generated images, or the metrics cannot be measured while training.
    """

    def __init__(
        self,
        extractor: Extractor,
        data: ImageSet,
        n_generated: int,
        cache: Path,
        peers: Group | None = None,
        metrics: Sequence[Metric] | None = None,
        asked: Tensor | None = None,
        codes: Mapping[str, Tensor] | None = None,
        encodes: bool = False,
    ) -> None:
        if n_generated < inception_score.SPLITS:
            raise UserError(
                f"metrics.n_generated={n_generated} is too few to measure: "
                f"{inception_score.SPLITS} or more, 2000 and up for values that mean something"
            )
        if peers is not None and n_generated < peers.world_size:
            raise UserError(f"metrics.n_generated={n_generated} is too few for {peers.world_size} ranks to share")
        if len(data.images) < 2:
            raise UserError(f"{data.name} has {len(data.images)} images: metrics need at least 2")
        self.extractor = extractor
        self.data = data = measured(data, cache)
        self.n_generated = n_generated
        self.peers = peers or Alone()
        self.asked, self.codes = asked, codes or {}
        chosen = built(WHILE_TRAINING) if metrics is None else metrics
        self.metrics = self._measurable(chosen, encodes and self.data.ground is None)
        after = {one.name: ending(one, extractor, n_generated, data.split) for one in self.metrics}
        self.names = {n: n + after[one.name] for one in self.metrics for n in one.names if n not in UNLOGGED}
        self.higher_is_better = {
            n + after[one.name]: higher for one in self.metrics for n, higher in one.directions.items()
        }
        # KID on 100 subsets takes seconds: little beside Inception, but most of an evaluation with
        # a classifier, where 20 subsets of 1000 cover a data set of a few thousand images often enough.
        self.kid_subsets = 20 if extractor.labelled else kid.SUBSETS
        self.real = real_features(extractor, data, cache)
        found = self.real.caveats(extractor, data)
        if self.peers.first:
            for caveat in found:
                logger.warning("%s", caveat)
        self.caveats = (*extractor.caveats, *found)

    def _measurable(self, metrics: Sequence[Metric], encodes: bool) -> list[Metric]:
        """Return the metrics that can be measured while training with this extractor, data and generator.

        Raises:
            UserError: the first one cannot, or one is python evaluate.py's alone.
        """
        if elsewhere := [metric.name for metric in metrics if SETS in metric.needs]:
            raise UserError(f"metrics.measures: {', '.join(elsewhere)}: only python evaluate.py measures that")
        first = metrics[0]
        met = {ASKED: self.asked is not None, CODES: bool(self.codes), ENCODER: encodes}
        met[CLASSED] = can_classify(self.data)
        needs = {one.name: lacking(one, self.extractor, met) for one in metrics}
        need = needs[first.name]
        if need or not first.directions:
            whose = dict.fromkeys((ASKED, CODES, ENCODER), "the generator") | {CLASSED: self.data.name}
            why = f"needs {need}, and {whose.get(need, self.extractor.name)} has none" if need else "gives no value"
            raise UserError(
                f"metrics.measures: the first one picks the best step, but {first.name} {why}"
                f"{'' if need else ' to choose by'}"
            )
        return [metric for metric in metrics if needs[metric.name] is None]

    @property
    def primary(self) -> str:
        """The name of the value that picks the best checkpoint."""
        return next(iter(self.higher_is_better))

    def improves(self, value: float, best: float | None) -> bool:
        """Return True if a value of the primary metric is finite and better than `best`, None where there is none."""
        if best is None or not math.isfinite(value):
            return math.isfinite(value)
        return value > best if self.higher_is_better[self.primary] else value < best

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """The settings needed to compare the values with others."""
        return protocol(self.extractor, self.data, self.n_generated, self.kid_subsets)

    def evaluate(
        self,
        generate: Callable[[int, int], Tensor],
        between: Callable[[], None] = lambda: None,
        encoder: Encoder | None = None,
    ) -> Evaluation:
        """Measure the generator behind `generate`; every rank must call it, and gets the same result.

        Args:
            generate: (start, count) -> the images of noise vectors start to start + count, uint8
                (count, C, H, W) of the data's `drawn_shape`, on any device. Over all ranks each vector is requested
                once.
            between: called between batches, on every rank equally often.
            encoder: the generator's, where `encodes` was said.
        """
        began = time.perf_counter()
        extracted = self._shared_features(generate, between)
        evaluation = self._score(extracted, generate, began, encoder) if extracted is not None else None
        return self.peers.tell(evaluation)  # type: ignore[return-value]

    def _score(
        self,
        extracted: Features,
        generate: Callable[[int, int], Tensor],
        began: float,
        encoder: Encoder | None,
    ) -> Evaluation:
        features, logits = extracted
        if not (features.isfinite().all() and logits.isfinite().all()):
            values = dict.fromkeys(self.names.values(), math.nan)
            return Evaluation(values, self.protocol, time.perf_counter() - began)
        inputs = Inputs(
            self.extractor,
            self.data,
            self.real,
            features,
            logits,
            lambda *part: self._seen(generate(*part)),
            self.kid_subsets,
            asked=self.asked,
            codes=self.codes,
            encoder=encoder,
        )
        with whole_float32():
            scores = score(self.metrics, inputs)
        for caveat in [one for one in dict.fromkeys(scores.caveats) if one not in self.caveats]:
            logger.warning("%s", caveat)
            self.caveats += (caveat,)
        named = {name: scores.values[name] for name in self.names.values()}
        return Evaluation(named, self.protocol, time.perf_counter() - began, scores.details.get("classes"))

    def _seen(self, images: Tensor) -> Tensor:
        """Return generated images as metrics see them."""
        return images if self.data.ground is None else on_ground(images, self.data.ground)

    def _shared_features(self, generate: Callable[[int, int], Tensor], between: Callable[[], None]) -> Features | None:
        """Compute the generated images' features, each rank those of its share; rank 0 gets all, in order."""
        peers, count = self.peers, self.n_generated
        begin, end = (count * rank // peers.world_size for rank in (peers.rank, peers.rank + 1))
        most = -(-count // peers.world_size)
        parts = []
        for start in range(begin, begin + most, BATCH):
            between()
            if start < end:
                parts.append(self._batch_features(generate, start, min(BATCH, end - start)))
        features, logits = (peers.gather(part, most) for part in _joined(parts))
        return Features(torch.cat(features), torch.cat(logits)) if peers.first else None

    def _batch_features(self, images: Callable[[int, int], Tensor], start: int, size: int) -> Features:
        batch = images(start, size)
        expected = (size, *self.data.drawn_shape)
        if batch.dtype != torch.uint8 or tuple(batch.shape) != expected:
            raise ValueError(f"expected uint8 images {expected}, not {batch.dtype} {tuple(batch.shape)}")
        return self.extractor(self._seen(batch))


def _joined(parts: list[Features]) -> Features:
    return Features(*(torch.cat(part) for part in zip(*parts, strict=True)))
