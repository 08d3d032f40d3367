"""Measures a generator against the real images of a data set."""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gantry.data.images import ImageSet
from gantry.distributed.peers import Peers
from gantry.errors import UserError
from gantry.metrics import scores
from gantry.metrics.extractors import Extractor, Features

logger = logging.getLogger(__name__)

CACHE_VERSION = 1  # raise it when what the file holds changes
BATCH = 512  # images asked for at a time


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


class Reals(NamedTuple):
    """Of n real images: features (n, d) float32, predicted classes (n,) int64, and FID's moments."""

    features: Tensor
    predicted: Tensor
    moments: scores.Moments


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
        self, extractor: Extractor, data: ImageSet, n_generated: int, cache: Path, peers: Peers | None = None
    ) -> None:
        if n_generated < scores.INCEPTION_SCORE_SPLITS:
            raise UserError(
                f"metrics.n_generated={n_generated} is too few to measure: "
                f"{scores.INCEPTION_SCORE_SPLITS} or more, 2000 and up for values that mean something"
            )
        if peers is not None and n_generated < peers.world_size:
            raise UserError(f"metrics.n_generated={n_generated} is too few for {peers.world_size} ranks to share")
        if len(data.images) < 2:
            raise UserError(f"{data.name} has {len(data.images)} images: metrics need at least 2")
        self.extractor = extractor
        self.data = data
        self.n_generated = n_generated
        self.peers = peers or Peers()
        self.names = scores.names(extractor, n_generated, data.split)
        # KID on 100 subsets takes seconds: little beside Inception, but most of an evaluation with
        # a classifier, where 20 subsets of 1000 see a data set of a few thousand images often enough.
        self.kid_subsets = 20 if extractor.labelled else scores.KID_SUBSETS
        self.real = self._real(cache / "features")

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
            **self.extractor.details,
            "data": self.data.name,
            "data_digest": self.data.digest,
            "split": self.data.split,
            "n_real": len(self.data.images),
            "n_generated": self.n_generated,
            "kid_subsets": self.kid_subsets,
            "kid_subset_size": scores.kid_subset_size(len(self.data.images), self.n_generated),
            "inception_score_splits": scores.INCEPTION_SCORE_SPLITS,
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
            mean, std = scores.inception_score(logits)
            values = {
                "fid": scores.fid(self.real.moments, features),
                "kid": scores.kid(self.real.features, features, self.kid_subsets),
                "inception_score": mean,
                "inception_score_std": std,
            }
            if self.extractor.labelled:
                values["modes"] = float(scores.classes_covered(self.real.predicted, logits.argmax(1)))
                classes = self._shares(logits)
        else:
            values = dict.fromkeys(self.names, math.nan)
        named = {self.names[statistic]: value for statistic, value in values.items()}
        return Evaluation(named, self.protocol, time.perf_counter() - began, classes)

    def _shares(self, logits: Tensor) -> dict[str, tuple[float, float]]:
        """Of each class its share of the real and of the generated images, whose logits are (n, classes)."""
        known = self.data.classes or ()
        count = max(logits.shape[1], len(known))
        real, generated = (
            (torch.bincount(verdicts, minlength=count).double() / len(verdicts)).tolist()
            for verdicts in (self.real.predicted, logits.argmax(1))
        )
        names = [*known, *map(str, range(len(known), count))]
        return dict(zip(names, zip(real, generated, strict=True), strict=True))

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

    def _look(self, images: Callable[[int, int], Tensor], count: int) -> Features:
        """The features of `count` images, asked for in batches."""
        return _joined([self._look_once(images, start, min(BATCH, count - start)) for start in range(0, count, BATCH)])

    def _look_once(self, images: Callable[[int, int], Tensor], start: int, size: int) -> Features:
        batch = images(start, size)
        expected = (size, *self.data.images.shape[1:])
        if batch.dtype != torch.uint8 or tuple(batch.shape) != expected:
            raise ValueError(f"expected uint8 images {expected}, not {batch.dtype} {tuple(batch.shape)}")
        return self.extractor(batch)

    def _real(self, folder: Path) -> Reals:
        key = {
            "version": CACHE_VERSION,
            "data": self.data.digest,
            "shape": self.data.images.shape,
            "extractor": self.extractor.name,
            "weights": self.extractor.digest,
            "resize": self.extractor.resize,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = folder / f"{digest[:32]}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            real = _load(path, len(self.data.images))
            if real is None:
                real = self._compute_real()
                _save(real, path)
        return real

    def _compute_real(self) -> Reals:
        count = len(self.data.images)
        logger.info(
            "Measuring the %d real images of %s with %s (once; the features are kept)",
            count,
            self.data.name,
            self.extractor.name,
        )

        def images(start: int, size: int) -> Tensor:
            return torch.from_numpy(np.array(self.data.images[start : start + size]))

        features, logits = self._look(images, count)
        if not features.isfinite().all():
            raise UserError(f"the {self.extractor.name} features of {self.data.name} are not finite: wrong weights?")
        return Reals(features, logits.argmax(1), scores.moments(features))


def _joined(parts: list[Features]) -> Features:
    return Features(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _save(real: Reals, path: Path) -> None:
    partial = path.with_suffix(".partial")
    total, outer, _ = real.moments
    save_file({"features": real.features, "predicted": real.predicted, "total": total, "outer": outer}, partial)
    os.replace(partial, path)  # noqa: PTH105


def _load(path: Path, count: int) -> Reals | None:
    """What `_save` wrote; None where there is no sound file."""
    if not path.exists():
        return None
    try:
        held = load_file(path)
        if len(held["features"]) == count:
            moments = scores.Moments(held["total"], held["outer"], count)
            return Reals(held["features"], held["predicted"], moments)
    except (SafetensorError, KeyError, OSError) as error:
        logger.debug("%s: %s", path, error)
    logger.warning("%s is damaged: measuring the real images again", path)
    return None
