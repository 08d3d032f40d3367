"""Extracts DINOv2's class token, with code from its authors' repository."""

import logging
import os
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import Colour, NetworkExtractor, check_channels
from gantry.evaluation.extractors.tf1_resize import resize_like_tensorflow1
from gantry.evaluation.extractors.weights import WITHOUT, digest_of, socket_timeout

logger = logging.getLogger(__name__)

DINOV2 = "facebookresearch/dinov2"
DINOV2_MEAN, DINOV2_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _DINOv2(nn.Module):
    """A DINOv2 network with torch-fidelity's preprocessing of the images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        from torchvision.transforms.functional import normalize

        mean, std = ([255 * value for value in values] for values in (DINOV2_MEAN, DINOV2_STD))
        return self.network(normalize(resize_like_tensorflow1(images, 224), mean, std).contiguous())


def dinov2(
    *,
    model: Literal["dinov2-vit-s-14", "dinov2-vit-b-14", "dinov2-vit-l-14"] = "dinov2-vit-l-14",
    data: ImageSet | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> NetworkExtractor:
    """Return an extractor with the class token of DINOv2 (Oquab et al. 2023), with torch-fidelity's preprocessing.

    The network is defined in its authors' GitHub repository, whose code torch.hub downloads and runs; a warning says so
    first. Images are resized to 224 x 224 the TensorFlow 1 way. It has no logits; `digest` is that of the state dict.

    Raises:
        UserError: the repository or the weights are missing and cannot be downloaded.
    """
    check_channels(model, data)
    short = model.replace("-14", "14").replace("-vit-", "_vit")
    logger.warning("%s runs code that torch.hub fetches from github.com/%s", model, DINOV2)
    os.environ.setdefault("XFORMERS_DISABLED", "1")  # read by that code: the same arithmetic on every machine
    try:
        with socket_timeout(), torch.random.fork_rng(devices=[]):
            network = torch.hub.load(DINOV2, short, trust_repo=True, verbose=False)  # asks no question
    except (OSError, RuntimeError, ImportError) as error:
        folder = Path(torch.hub.get_dir())
        weights = f"{short}_pretrain.pth"
        raise UserError(
            f"{model} is not on this machine and could not be fetched, or its code does not run here ({error}).\n"
            f"Clone https://github.com/{DINOV2} as {folder / DINOV2.replace('/', '_')}_main, and put\n"
            f"https://dl.fbaipublicfiles.com/dinov2/{short}/{weights} (its authors name no hash) in "
            f"{folder / 'checkpoints'}\n{WITHOUT}"
        ) from error
    return NetworkExtractor(
        network=Colour(_DINOv2(network)),
        name=model,
        digest=digest_of(network),
        resize="tensorflow-1 bilinear 224",
        device=torch.device(device),
        has_logits=False,
        batch_size=16,
    )
