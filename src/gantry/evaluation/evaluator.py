"""Measures a generator against the real images of a data set."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import Extractor, Features
from gantry.evaluation.metrics import fid_kid_is
from gantry.evaluation.metrics.class_shares import class_shares
from gantry.evaluation.real_statistics import real_features

BATCH = 512  # images asked for at a time
T = TypeVar("T")


class Group(Protocol):
    """The ranks that share a measurement out (`gantry.training.distributed.peers.Peers`)."""

    rank: int
    world_size: int

    @property
    def first(self) -> bool:
        """This is rank 0."""

    def tell(self, value: T) -> T:
        """Rank 0's `value`, at every rank."""

    def gather(self, part: Tensor, most: int) -> list[Tensor]:
        """The ranks' parts (n_rank, d), each of at most `most` rows, at rank 0 in order; elsewhere an empty list."""


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
        protocol: what else one must know to compare them: extractor, weights, counts, split, data.
        seconds: how long it took.
        classes: for each of the data set's classes its share, 0 to 1, of the real and of the generated images,
            by the classifier's verdict on both; None where the extractor does not know the classes, or the
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
        extractor: what looks at the images.
        data: the real images, measured as they are, never mirrored.
        n_generated: generated images in each measurement, at least 10, the Inception Score's splits.
        cache: folder of everything that can be computed again; the features go to `cache`/features.
        peers: the ranks that share the generated images out; rank 0 has their features and scores them.

    Raises:
        UserError: too few images on either side.
    """

    def __init__(
        self, extractor: Extractor, data: ImageSet, n_generated: int, cache: Path, peers: Group | None = None
    ) -> None:
        if n_generated < fid_kid_is.INCEPTION_SCORE_SPLITS:
            raise UserError(
                f"metrics.n_generated={n_generated} is too few to measure: "
                f"{fid_kid_is.INCEPTION_SCORE_SPLITS} or more, 2000 and up for values that mean something"
            )
        if peers is not None and n_generated < peers.world_size:
            raise UserError(f"metrics.n_generated={n_generated} is too few for {peers.world_size} ranks to share")
        if len(data.images) < 2:
            raise UserError(f"{data.name} has {len(data.images)} images: metrics need at least 2")
        self.extractor = extractor
        self.data = data
        self.n_generated = n_generated
        self.peers = peers or Alone()
        self.names = fid_kid_is.names(extractor, n_generated, data.split)
        # KID on 100 subsets takes seconds: little beside Inception, but most of an evaluation with
        # a classifier, where 20 subsets of 1000 see a data set of a few thousand images often enough.
        self.kid_subsets = 20 if extractor.labelled else fid_kid_is.KID_SUBSETS
        self.real = real_features(extractor, data, cache)

    @cached_property
    def _reference(self) -> fid_kid_is.Reference:
        """The costly half of every FID against the same real images."""
        return fid_kid_is.reference(self.real.moments)

    @property
    def primary(self) -> str:
        """The name of the score that picks the best checkpoint, lower is better."""
        return self.names["fid"]

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What one must know to compare the values with others."""
        return {
            "extractor": self.extractor.name,
            "extractor_sha256": self.extractor.digest,
            "extractor_resize": self.extractor.resize,
            "extractor_arithmetic": self.extractor.arithmetic,
            **self.extractor.details,
            "data": self.data.name,
            "data_digest": self.data.digest,
            "split": self.data.split,
            "n_real": len(self.data.images),
            "n_generated": self.n_generated,
            "kid_subsets": self.kid_subsets,
            "kid_subset_size": fid_kid_is.kid_subset_size(len(self.data.images), self.n_generated),
            "inception_score_splits": fid_kid_is.INCEPTION_SCORE_SPLITS,
        }

    def evaluate(
        self, generate: Callable[[int, int], Tensor], between: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """Measures the generator behind `generate`; every rank must call it, and gets the same.

        Args:
            generate: (start, count) -> the images of noise vectors start to start + count, uint8
                (count, C, H, W) of the data's shape, on any device. Over all ranks each vector is asked for once.
            between: called between batches, on every rank equally often.
        """
        began = time.perf_counter()
        looked = self._look_together(generate, between)
        return self.peers.tell(self._score(looked, began) if looked is not None else None)  # type: ignore[return-value]

    def _score(self, looked: Features, began: float) -> Evaluation:
        features, logits = looked
        classes = None
        if features.isfinite().all() and logits.isfinite().all():
            values = {
                "fid": fid_kid_is.fid(self._reference, features),
                "kid": fid_kid_is.kid(self.real.features, features, self.kid_subsets)[0],
            }
            if self.extractor.has_logits:
                values["inception_score"], values["inception_score_std"] = fid_kid_is.inception_score(logits)
            if self.extractor.labelled:
                assert self.real.predicted is not None
                verdicts = logits.argmax(1)
                values["modes"] = float(fid_kid_is.classes_covered(self.real.predicted, verdicts))
                classes = class_shares(self.real.predicted, verdicts, self.data.classes or (), logits.shape[1])
        else:
            values = dict.fromkeys(self.names, math.nan)
        named = {self.names[statistic]: value for statistic, value in values.items()}
        return Evaluation(named, self.protocol, time.perf_counter() - began, classes)

    def _look_together(self, generate: Callable[[int, int], Tensor], between: Callable[[], None]) -> Features | None:
        """The features of the generated images, each rank looking at its share; rank 0 gets all, in their order."""
        peers, count = self.peers, self.n_generated
        begin, end = (count * rank // peers.world_size for rank in (peers.rank, peers.rank + 1))
        most = -(-count // peers.world_size)
        parts = []
        for start in range(begin, begin + most, BATCH):
            between()
            if start < end:
                parts.append(self._look_once(generate, start, min(BATCH, end - start)))
        features, logits = (peers.gather(part, most) for part in _joined(parts))
        return Features(torch.cat(features), torch.cat(logits)) if peers.first else None

    def _look_once(self, images: Callable[[int, int], Tensor], start: int, size: int) -> Features:
        batch = images(start, size)
        expected = (size, *self.data.images.shape[1:])
        if batch.dtype != torch.uint8 or tuple(batch.shape) != expected:
            raise ValueError(f"expected uint8 images {expected}, not {batch.dtype} {tuple(batch.shape)}")
        return self.extractor(batch)


def _joined(parts: list[Features]) -> Features:
    return Features(*(torch.cat(part) for part in zip(*parts, strict=True)))
