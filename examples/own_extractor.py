"""A feature extractor of one's own, to measure through while training: conf/extractor/patches.yaml names it.

PYTHONPATH=examples python train.py --config-dir=examples/conf extractor@metrics.extractor=patches \
    experiment=smoke tracking=none

The same in evaluate.py: extractor=patches.
"""

from torch import Tensor, nn


class Patches(nn.Module):
    """uint8 images (n, C, H, W), 0 to 255, to the means of width x width patches, (n, C * width**2)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(width)

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(images.float() / 255).flatten(1)
