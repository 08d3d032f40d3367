"""Describes the protocol of a measurement: the suffix of the values' names, and the recorded settings."""

from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import Extractor
from gantry.evaluation.metrics import inception_score, kid

STANDARD_COUNT = 50_000  # generated images in the papers
KEEPING = ("none", "its own")  # an extractor's `resize` where Gantry does not resize


def suffix(extractor: Extractor, n_generated: int, split: str) -> str:
    """Return the suffix of a metric's name, which is empty only under the papers' protocol.

    Official Inception weights: `fid` for 50,000 generated images, `fid_5k`, `fid_2048` for other counts.
    Inception with other weights: `fid_inception-0a1b2c3d_5k`, after their hash. Against another split
    than the training set, or a part of it: `fid_test`, `fid_5k_train-1000`. On the data set's own classes:
    `fid_classifier`, and `modes_classifier` for the classes covered.

    Args:
        extractor: computed the features.
        n_generated: number of generated images.
        split: of the real images.
    """
    if extractor.labelled:
        return f"_{extractor.name}"
    text = "" if extractor.official else f"_{extractor.name}-{extractor.digest[:8]}"
    if n_generated != STANDARD_COUNT:
        text += f"_{n_generated // 1000}k" if n_generated % 1000 == 0 else f"_{n_generated}"
    return text if split in ("train", "all") else f"{text}_{split}"


def protocol(extractor: Extractor, data: ImageSet, n_generated: int, kid_subsets: int) -> dict[str, str | int | float]:
    """Return the settings needed to compare values with others: extractor, weights, data, split, counts.

    Of images with alpha also the `ground` on which they were laid.
    """
    return {
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
        "extractor_resize": _resize(extractor, data),
        "extractor_arithmetic": extractor.arithmetic,
        **extractor.details,
        "data": data.name,
        "data_digest": data.digest,
        **({"ground": data.ground} if data.ground else {}),
        "split": data.split,
        "n_real": len(data),
        "n_generated": n_generated,
        "kid_subsets": kid_subsets,
        "kid_subset_size": kid.subset_size(len(data), n_generated),
        "inception_score_splits": inception_score.SPLITS,
    }


def _resize(extractor: Extractor, data: ImageSet) -> str:
    """Say how images come to the extractor's size; a square one stretches others, as torch-fidelity does too."""
    _, height, width = data.shape
    stretched = height != width and extractor.resize not in KEEPING
    return f"{extractor.resize}, stretched from {width}x{height}" if stretched else extractor.resize
