"""CLIP's image embedding."""

import io
from pathlib import Path
from typing import Literal

import torch

from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import Colour, NetworkExtractor, check_channels
from gantry.evaluation.extractors.weights import OPTION, Published, read, understood


def clip(
    *,
    model: Literal[
        "clip-vit-b-32",
        "clip-vit-b-16",
        "clip-vit-l-14",
        "clip-vit-l-14-336px",
        "clip-rn50",
        "clip-rn101",
        "clip-rn50x4",
        "clip-rn50x16",
        "clip-rn50x64",
    ] = "clip-vit-b-32",
    weights: str | None = None,
    data: ImageSet | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> NetworkExtractor:
    """Return an extractor with the image embedding of CLIP (Radford et al. 2021), as torch-fidelity computes it.

    Images are resized to the model's input size the TensorFlow 1 way. Arguments and errors as for `inception`; the
    weights are OpenAI's TorchScript archives, which contain code: other files are refused. It has no logits.
    """
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS, FeatureExtractorCLIP

    check_channels(model, data)
    sha256 = MODEL_METADATA[model]["hash"]
    published = Published(f"OpenAI's weights of {model}", MODEL_URLS[model], sha256, file=f"{model}-{sha256}.pt")
    path, content, digest = read(weights, published)
    if digest != sha256:  # its code could write any file
        raise UserError(
            f"{OPTION}: {path} is not OpenAI's TorchScript archive of {model}, which has the sha256 {sha256}; "
            "such an archive holds code, so no other is read"
        )
    with understood(path, f"the TorchScript archive of {model}"), torch.random.fork_rng(devices=[]):
        network = FeatureExtractorCLIP(model, ["clip"], feature_extractor_weights_path=io.BytesIO(content))
    return NetworkExtractor(
        network=Colour(network),
        name=model,
        digest=digest,
        resize=f"tensorflow-1 bilinear {network.resolution}",
        device=torch.device(device),
        has_logits=False,
    )
