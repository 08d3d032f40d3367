"""The papers' Inception network as torch-fidelity ports it, with its own forward and an equal, faster one."""

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from gantry.core.determinism import Products
from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import TF32, Colour, NetworkExtractor, check_channels
from gantry.evaluation.extractors.folded_inception import LAST, SIDE, folded
from gantry.evaluation.extractors.weights import Published, read, tensors_alone, understood

Layer = Literal[64, 192, 768, 2048]
LAYERS: tuple[int, ...] = get_args(Layer)  # numbers of channels, which identify the layers in the papers
LARGE = 2**34  # bytes of a GPU's memory with which batches of 256 are within what training leaves
TF32_CAVEAT = (
    "Inception's products were computed in TF32: its FID differs by a relative 1e-5 to 4e-5 from that of float32"
)
INCEPTION = Published(
    what="The Inception weights of FID (91 MB)",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)


def inception(
    *,
    weights: str | None = None,
    layer: Layer = 2048,
    fast: bool = True,
    tf32: bool = False,
    data: ImageSet | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> NetworkExtractor:
    """Return the Inception network of the papers' FID, KID and Inception Score, as torch-fidelity ports it.

    Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule: features are the 2048 of the last
    pooling, logits the 1008 without bias. Images are resized to 299 x 299 the TensorFlow 1 way.

    Args:
        weights: file of the weights; without it torch-fidelity's own, from torch.hub's checkpoint folder,
            downloaded there when missing. A file with another hash is used, its scores named after that hash.
        layer: the features: those of the last pooling, or the means over the image of an earlier layer's
            channels, 64, 192 or 768, without logits; its scores are then named after `inception-768`, say.
        fast: compute them about twice as fast on a CPU, equal up to rounding: FID has a relative difference of up to
            1e-5.
        tf32: multiply in TF32 on a GPU: about twice as fast there, FID off by a relative 1e-5 to 4e-5. The scores are
            then named after `inception-tf32`, and a caveat says so.
        data: the images to be measured; greyscale is repeated to three channels.
        cache: unused; every extractor accepts it.
        device: where the network runs.

    Raises:
        UserError: the weights are missing and cannot be downloaded, are damaged, or are not of this network; the
            images have neither one nor three channels; there is no such layer; the device has no TF32.
    """
    device = torch.device(device)
    products: Products = _products(tf32, device)
    if layer not in LAYERS:
        raise UserError(f"extractor.layer: one of {', '.join(map(str, LAYERS))}, not {layer}")
    check_channels("inception", data)
    path, content, digest = read(weights, INCEPTION)
    with understood(path, "torch-fidelity's Inception weights"):
        network = plain(content, layer)
    last = layer == LAST
    name = "inception" if last else f"inception-{layer}"
    return NetworkExtractor(
        network=Colour(folded(network, layer, device) if fast else network),
        name=f"{name}-tf32" if tf32 else name,
        digest=digest,
        resize=f"tensorflow-1 bilinear {SIDE}",
        device=device,
        official=last and digest == INCEPTION.sha256 and not tf32,
        has_logits=last,
        batch_size=_batch_size(device),
        arithmetic=("folded" if fast else "plain") + (f" {TF32}" if tf32 else ""),
        products=products,
        graph=device.type == "cuda",
        caveats=(TF32_CAVEAT,) if tf32 else (),
    )


def _products(tf32: bool, device: torch.device) -> Products:
    """Return how products are computed.

    Raises:
        UserError: TF32 is wanted where there is none, so that the values would be others than their name says.
    """
    if not tf32:
        return "ieee"
    if device.type != "cuda":
        raise UserError(
            f"extractor.tf32=true needs a GPU of CUDA: a {device.type} device has no TF32; false computes in float32"
        )
    if torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise UserError(f"extractor.tf32=true: {name} has no TF32, which came with Ampere; false computes in float32")
    return "tf32"


def _batch_size(device: torch.device) -> int:
    if device.type == "cpu":
        return 16  # more does not fit a CPU's caches
    if device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory >= LARGE:
        return 256
    return 128


def plain(content: bytes, layer: int) -> nn.Module:
    """Return torch-fidelity's network with the weights in a file's content: the reference.

    It maps uint8 (n, 3, H, W) to the features (n, layer), and of layer 2048 to the logits (n, 1008) without bias too.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    wanted = [str(layer), "logits_unbiased"] if layer == LAST else [str(layer)]
    with torch.random.fork_rng(devices=[]):  # the constructor draws initial weights, which are then overwritten
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", wanted, feature_extractor_weights_path=tensors_alone(content)
        )
