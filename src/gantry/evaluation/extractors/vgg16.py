"""Extracts VGG16's features, which the paper on precision and recall uses."""

from pathlib import Path

import torch

from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import Colour, NetworkExtractor, check_channels
from gantry.evaluation.extractors.weights import Published, read, tensors_alone, understood

VGG16 = Published(
    what="The ImageNet weights of VGG16 (528 MB)",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)


def vgg16(
    *,
    weights: str | None = None,
    data: ImageSet | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> NetworkExtractor:
    """Return an extractor with VGG16's second hidden layer after its ReLU, 4096 features, as in torch-fidelity.

    Kynkaanniemi et al. 2019, Improved Precision and Recall Metric for Assessing Generative Models, use them.
    Images are resized to 224 x 224 the TensorFlow 1 way. Arguments and errors as for `inception`; the weights are
    torchvision's. It has no logits.
    """
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    check_channels("vgg16", data)
    path, content, digest = read(weights, VGG16)
    with understood(path, "torchvision's VGG16 weights"), torch.random.fork_rng(devices=[]):
        network = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=tensors_alone(content))
    return NetworkExtractor(
        network=Colour(network),
        name="vgg16",
        digest=digest,
        resize="tensorflow-1 bilinear 224",
        device=torch.device(device),
        has_logits=False,
    )
