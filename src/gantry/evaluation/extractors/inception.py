"""The papers' Inception network as torch-fidelity ports it: its own forward, and a faster one of the same value."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gantry.evaluation.extractors.tf1_resize import resize_like_tensorflow1
from gantry.evaluation.extractors.weights import tensors_alone

Layer = Literal[64, 192, 768, 2048]
LAYERS: tuple[int, ...] = get_args(Layer)  # the channels, after which the papers call them
ENDS = {64: "MaxPool_1", 192: "MaxPool_2", 768: "Mixed_6e", 2048: "AvgPool"}
SIDE = 299


def plain(content: bytes, layer: int) -> nn.Module:
    """torch-fidelity's network with the weights in a file's content: the reference.

    It maps uint8 (n, 3, H, W) to the features (n, layer), and of layer 2048 to the logits (n, 1008) without bias too.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    wanted = [str(layer), "logits_unbiased"] if layer == LAYERS[-1] else [str(layer)]
    with torch.random.fork_rng(devices=[]):  # the constructor initialises what is then overwritten
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", wanted, feature_extractor_weights_path=tensors_alone(content)
        )


class Folded(nn.Module):
    """What `plain` computes, faster: batch norm folded into the convolutions, channels last, the resizing by axis.

    Its features differ from the reference's by the rounding of float32, some 1e-6 of their size.

    Args:
        reference: the network that `plain` returned; its weights are taken over, not shared.
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
    """`module` with each of its convolutions and the batch norm after it made one, in place."""
    for name, child in module.named_children():
        parts = dict(child.named_children())
        if isinstance(norm := parts.get("bn"), nn.BatchNorm2d) and isinstance(conv := parts["conv"], nn.Conv2d):
            setattr(module, name, nn.Sequential(fuse_conv_bn_eval(conv, norm), nn.ReLU(inplace=True)))
        else:
            _folded(child)
    return module
