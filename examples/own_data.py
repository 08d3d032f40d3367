"""A data set that a function makes: conf/data/stripes.yaml names it.

PYTHONPATH=examples python train.py --config-dir=examples/conf data=stripes experiment=smoke tracking=none
"""

import hashlib
from pathlib import Path

import numpy as np

from gantry.data.images import ImageSet, digest_of, resize
from gantry.data.sizes import Size


def stripes(*, cache: Path, image_size: Size = 16) -> ImageSet:
    """500 images with lines across and 500 with lines down; `cache` is where a download would go."""
    labels = np.arange(1000) % 2
    images = np.zeros((1000, 1, 16, 16), np.uint8)  # (N, C, H, W), 0 to 255
    images[labels == 0, :, ::4] = 255
    images[labels == 1, :, :, ::4] = 255
    images = resize(images, image_size)
    digest = digest_of(images.shape, hashlib.sha256(images).digest(), labels)
    return ImageSet("stripes", images, labels, ("across", "down"), "train", "drawn here", digest, flip=False)
