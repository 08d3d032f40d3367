"""Computes the features of a data set's real images once, stores them on disk and maps them from there."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from gantry.core.errors import UserError
from gantry.core.files import write_json
from gantry.core.processes.workers import ALONE, Crew
from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import Extractor
from gantry.evaluation.features import ArraySource, Note, look_at, mapped
from gantry.evaluation.moments import Moments, Reference, reference
from gantry.evaluation.moments import moments as moments_of
from gantry.evaluation.placement import computing, placed

logger = logging.getLogger(__name__)

CACHE_VERSION = 2  # raise it when the files' content changes
ABOUT, FEATURES, PREDICTED, MOMENTS = "about.json", "real.features.npy", "predicted.npy", "moments.safetensors"
BLOCK = 2**22  # bytes read at a time for a checksum
SAME = 1e-6  # largest standard deviation of features, as a share of their size, that is rounding


@dataclass(frozen=True, eq=False)
class Reals:
    """The features of n real images and results derived from them.

    Attributes:
        features: (n, d) float32, mapped from a file.
        predicted: the classes predicted by the extractor's logits, (n,) int64; None where it has no logits.
        moments: of the features, for FID.
        folder: where the files are stored.
        device: the extractor's, where metrics compute.
    """

    features: Tensor
    predicted: Tensor | None
    moments: Moments
    folder: Path
    device: torch.device

    @cached_property
    def reference(self) -> Reference:
        """The costly half of every FID against these images."""
        return reference(self.moments.to(computing(self.device)))

    def caveats(self, extractor: Extractor, data: ImageSet) -> list[str]:
        """Return what these features of `data` speak against the extractor's scores, a sentence each."""
        said, count = [], f"all {len(self.features):,} real images of {data.name}"
        if self.moments.covariance.diagonal().max().sqrt() <= SAME * self.moments.mean.abs().max():
            said.append(f"{extractor.name} gives {count} the same features: scores made with them tell nothing")
        if not extractor.labelled and self.predicted is not None and (self.predicted == self.predicted[0]).all():
            said.append(f"{extractor.name} takes {count} for one class: Inception Scores of its logits tell little")
        return said

    def derived(self, name: str, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `compute(features)`, which is stored beside them as `name`.npy and computed once."""
        path = self.folder / f"{name}.npy"
        with FileLock(f"{self.folder}.lock"):
            if not _is_sound(self.folder, path):
                _write(path, compute(self.features).cpu().numpy())
                _enter(self.folder, path)
        return mapped(path)


def real_features(
    extractor: Extractor, data: ImageSet, cache: Path, crew: Crew = ALONE, note: Note = lambda part, seconds: None
) -> Reals:
    """Return the features of all images of `data`, read from `cache`/features or computed and stored there.

    Concurrent processes compute them once; a damaged file is detected by its checksum and computed again.

    Args:
        extractor: computes the features; its name, weights, resizing and arithmetic are part of the cache's key.
        data: the images, measured as they are, never mirrored.
        cache: folder of everything that can be computed again.
        crew: the processes that share the work.
        note: is told the seconds of the parts of the work (`gantry.evaluation.features.look_at`).

    Raises:
        UserError: the features are not finite.
        JobFailed: another process of the crew has failed.
    """
    key = {
        "version": CACHE_VERSION,
        "data": data.digest,
        "shape": data.images.shape,
        "extractor": extractor.name,
        "weights": extractor.digest,
        "resize": extractor.resize,
        "arithmetic": extractor.arithmetic,
        **({"ground": data.ground} if data.ground else {}),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = cache / "features" / digest[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        found = _load(folder, extractor.device)
        if found is None:
            logger.info(
                "Measuring the %d real images of %s (%s) with %s (once; the features are kept)",
                *(len(data), data.name, data.split, extractor.name),
            )
            _compute(extractor, data, folder, crew, note)
            found = _load(folder, extractor.device)
    assert found is not None
    return found


def _compute(extractor: Extractor, data: ImageSet, folder: Path, crew: Crew, note: Note) -> None:
    work, title = folder.with_suffix(".partial"), f"real images of {data.name}"
    seen = look_at(ArraySource(data.images), {"real": extractor}, work, title, crew, note=note)["real"]
    if not all(part.isfinite().all() for part in seen.features.split(4096)):
        shutil.rmtree(work)
        raise UserError(f"the {extractor.name} features of {data.name} are not finite: wrong weights?")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (work / FEATURES).replace(folder / FEATURES)
    if extractor.has_logits:
        verdicts = [part.argmax(1) for part in seen.logits.split(4096)]
        _write(folder / PREDICTED, torch.cat(verdicts).numpy())
    features = mapped(folder / FEATURES)
    moments = moments_of(features, copy=placed(extractor.device, features)[0])
    save_file({name: value.cpu() for name, value in moments._asdict().items() if name != "n"}, folder / MOMENTS)
    _enter(folder, *folder.iterdir())
    shutil.rmtree(work)


def _load(folder: Path, device: torch.device) -> Reals | None:
    """Load the files of `_compute`; None if they are missing or damaged."""
    if not (folder / ABOUT).exists():
        return None
    classified = PREDICTED in _checksums(folder)
    needed = [FEATURES, MOMENTS, *([PREDICTED] if classified else [])]
    if not all(_is_sound(folder, folder / name) for name in needed):
        logger.warning("%s is damaged: measuring the real images again", folder)
        return None
    features = mapped(folder / FEATURES)
    predicted = mapped(folder / PREDICTED) if classified else None
    held = {name: value.clone() for name, value in load_file(folder / MOMENTS).items()}
    moments = Moments(**held, n=len(features))
    return Reals(features, predicted, moments, folder, device)


def _write(path: Path, array: np.ndarray) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)


def _checksums(folder: Path) -> dict[str, int]:
    try:
        return dict(json.loads((folder / ABOUT).read_text())["crc32"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _enter(folder: Path, *paths: Path) -> None:
    """Record the files' checksums, which detect damage; a folder is valid only after this."""
    write_json({"crc32": _checksums(folder) | {path.name: _crc(path) for path in paths}}, folder / ABOUT)


def _is_sound(folder: Path, path: Path) -> bool:
    return path.exists() and _checksums(folder).get(path.name) == _crc(path)


def _crc(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total = zlib.crc32(block, total)
    return total
