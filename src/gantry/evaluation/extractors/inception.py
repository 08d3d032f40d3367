"""The papers' Inception network as torch-fidelity ports it, with its own forward and an equal, faster one."""

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import Colour, NetworkExtractor, check_channels
from gantry.evaluation.extractors.tf1_resize import resize_like_tensorflow1
from gantry.evaluation.extractors.weights import Published, read, tensors_alone, understood

Layer = Literal[64, 192, 768, 2048]
LAYERS: tuple[int, ...] = get_args(Layer)  # numbers of channels, which identify the layers in the papers
ENDS = {64: "MaxPool_1", 192: "MaxPool_2", 768: "Mixed_6e", 2048: "AvgPool"}
SIDE = 299
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
        fast: compute them about twice as fast, equal up to rounding: FID has a relative difference of up to 1e-5.
        data: the images to be measured; greyscale is repeated to three channels.
        cache: unused; every extractor accepts it.
        device: where the network runs.

    Raises:
        UserError: the weights are missing and cannot be downloaded, are damaged, or are not of this network; the
            images have neither one nor three channels; there is no such layer.
    """
    if layer not in LAYERS:
        raise UserError(f"extractor.layer: one of {', '.join(map(str, LAYERS))}, not {layer}")
    check_channels("inception", data)
    path, content, digest = read(weights, INCEPTION)
    with understood(path, "torch-fidelity's Inception weights"):
        network = plain(content, layer)
    last = layer == LAYERS[-1]
    device = torch.device(device)
    return NetworkExtractor(
        network=Colour(Folded(network, layer) if fast else network),
        name="inception" if last else f"inception-{layer}",
        digest=digest,
        resize="tensorflow-1 bilinear 299",
        device=device,
        official=last and digest == INCEPTION.sha256,
        has_logits=last,
        batch_size=16 if device.type == "cpu" else 128,  # more does not fit a CPU's caches
        arithmetic="folded" if fast else "plain",
    )


def plain(content: bytes, layer: int) -> nn.Module:
    """Return torch-fidelity's network with the weights in a file's content: the reference.

    It maps uint8 (n, 3, H, W) to the features (n, layer), and of layer 2048 to the logits (n, 1008) without bias too.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    wanted = [str(layer), "logits_unbiased"] if layer == LAYERS[-1] else [str(layer)]
    with torch.random.fork_rng(devices=[]):  # the constructor draws initial weights, which are then overwritten
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", wanted, feature_extractor_weights_path=tensors_alone(content)
        )


class Folded(nn.Module):
    """A faster `plain`: batch norm folded into the convolutions, channels last, resizing by axis.

    Its features differ from the reference's by float32 rounding, about 1e-6 of their size.

    Args:
        reference: the network that `plain` returned; its weights are copied, not shared.
        layer: as for `plain`.
    """

    def __init__(self, reference: nn.Module, layer: int) -> None:
        super().__init__()
        children = dict(reference.named_children())
        names = list(children)
        used = [children[name] for name in names[: names.index(ENDS[layer]) + 1]]
        if layer != LAYERS[-1]:
            used.append(nn.AdaptiveAvgPool2d(1))
        self.body = _folded(nn.Sequential(*used)).to(memory_format=torch.channels_last)
        head = reference.get_submodule("fc").get_parameter("weight")
        self.head = head if layer == LAYERS[-1] else None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.body(resize_like_tensorflow1(images, SIDE).sub_(128).div_(128)).flatten(1)
        return (features,) if self.head is None else (features, features.mm(self.head.T))


def _folded(module: nn.Module) -> nn.Module:
    """Fold each batch norm of `module` into the convolution before it, in place."""
    for name, child in module.named_children():
        parts = dict(child.named_children())
        if isinstance(norm := parts.get("bn"), nn.BatchNorm2d) and isinstance(conv := parts["conv"], nn.Conv2d):
            setattr(module, name, nn.Sequential(fuse_conv_bn_eval(conv, norm), nn.ReLU(inplace=True)))
        else:
            _folded(child)
    return module
