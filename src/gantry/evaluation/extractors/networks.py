"""Feature extractors: images in, the features and logits that the scores are computed from out."""

import hashlib
import io
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gantry.core.determinism import whole_float32
from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.evaluation.extractors import inception as inception_network
from gantry.evaluation.extractors.tf1_resize import resize_like_tensorflow1
from gantry.evaluation.extractors.weights import (
    OPTION,
    WITHOUT,
    Published,
    design_of,
    digest_of,
    read,
    socket_timeout,
    state_of,
    tensors_alone,
    understood,
)

logger = logging.getLogger(__name__)

INCEPTION = Published(
    what="The Inception weights of FID (91 MB)",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
VGG16 = Published(
    what="The ImageNet weights of VGG16 (528 MB)",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
DINOV2 = "facebookresearch/dinov2"
DINOV2_MEAN, DINOV2_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Features(NamedTuple):
    """What an extractor sees in n images, float32 on the CPU.

    `features` (n, d) and `logits` (n, k), where k is 0 if the network classifies nothing.
    """

    features: Tensor
    logits: Tensor


class Extractor(Protocol):
    """What the evaluator needs of a feature extractor.

    Attributes:
        name: what its scores are named after ("inception", "classifier").
        digest: sha256 of the weights, hexadecimal.
        official: the papers' own network, layer and weights, so that its scores may bear the papers' names.
        labelled: the logits are those of the data set's own classes.
        has_logits: there are any; without them there is no Inception Score.
        resize: how it brings images to its own input size.
        arithmetic: "plain" as published; "folded" with the same value up to rounding, computed faster.
        details: what else belongs beside its scores (its accuracy, for one).
    """

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def official(self) -> bool: ...
    @property
    def labelled(self) -> bool: ...
    @property
    def has_logits(self) -> bool: ...
    @property
    def resize(self) -> str: ...
    @property
    def arithmetic(self) -> str: ...
    @property
    def details(self) -> Mapping[str, str | int | float]: ...

    def __call__(self, images: Tensor) -> Features:
        """The features of `images`: uint8 (n, C, H, W), any device, any n."""
        ...


@dataclass(frozen=True, eq=False)
class NetworkExtractor:
    """An `Extractor` around a network that maps uint8 (n, C, H, W) to features, (features,) or (features, logits).

    The network is frozen and put in eval mode. It runs in whole float32, whatever autocast and TF32 settings
    surround it, and on exactly `batch_size` images at a time, the last batch filled up with black ones: libraries
    choose another algorithm, which rounds differently, for another size of batch.
    """

    network: nn.Module
    name: str
    digest: str
    resize: str
    device: torch.device
    official: bool = False
    labelled: bool = False
    has_logits: bool = True
    batch_size: int = 64
    arithmetic: str = "plain"
    details: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False).to(self.device)

    def __call__(self, images: Tensor) -> Features:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(f"images must be uint8 (n, C, H, W), not {images.dtype} {tuple(images.shape)}")
        parts = []
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), whole_float32():
            for batch in images.split(self.batch_size):
                parts.append([seen[: len(batch)].float().cpu() for seen in self._look(batch.to(self.device))])
        return Features(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _look(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        if missing := self.batch_size - len(batch):
            batch = torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])])
        seen = self.network(batch)
        features, *logits = seen if isinstance(seen, tuple) else (seen,)
        return features, logits[0] if logits else features.new_empty(len(features), 0)


class _Colour(nn.Module):
    """Repeats greyscale to the three channels the network wants; the resizing, inside it, comes after."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)


def _check_channels(name: str, data: ImageSet | None) -> None:
    if data is not None and data.images.shape[1] not in (1, 3):
        raise UserError(f"{name} needs 1 or 3 channels; {data.name} has {data.images.shape[1]}")


def inception(
    *,
    weights: str | None = None,
    layer: inception_network.Layer = 2048,
    fast: bool = True,
    data: ImageSet | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> NetworkExtractor:
    """The Inception network of the papers' FID, KID and Inception Score, as torch-fidelity ports it.

    Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule: features are the 2048 of the last
    pooling, logits the 1008 without bias. Images are resized to 299 x 299 the TensorFlow 1 way.

    Args:
        weights: file of the weights; without it torch-fidelity's own, from torch.hub's checkpoint folder,
            fetched there when missing. A file with another hash is used, its scores named after that hash.
        layer: the features: those of the last pooling, or the means over the image of an earlier layer's
            channels, 64, 192 or 768, without logits; its scores are then named after `inception-768`, say.
        fast: compute them about twice as fast, the same up to rounding: FID agrees to 1e-5 of itself.
        data: the images to be measured; greyscale is repeated to three channels.
        cache: unused; every extractor accepts it.
        device: where the network runs.

    Raises:
        UserError: the weights are missing and cannot be fetched, are damaged, or are not of this network; the
            images have neither one nor three channels; there is no such layer.
    """
    if layer not in inception_network.LAYERS:
        raise UserError(f"extractor.layer: one of {', '.join(map(str, inception_network.LAYERS))}, not {layer}")
    _check_channels("inception", data)
    path, content, digest = read(weights, INCEPTION)
    with understood(path, "torch-fidelity's Inception weights"):
        network = inception_network.plain(content, layer)
    last = layer == inception_network.LAYERS[-1]
    device = torch.device(device)
    return NetworkExtractor(
        network=_Colour(inception_network.Folded(network, layer) if fast else network),
        name="inception" if last else f"inception-{layer}",
        digest=digest,
        resize="tensorflow-1 bilinear 299",
        device=device,
        official=last and digest == INCEPTION.sha256,
        has_logits=last,
        batch_size=16 if device.type == "cpu" else 128,  # a CPU's caches hold no more
        arithmetic="folded" if fast else "plain",
    )


def vgg16(
    *,
    weights: str | None = None,
    data: ImageSet | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> NetworkExtractor:
    """VGG16's second hidden layer after its ReLU, 4096 features, as torch-fidelity computes them.

    Kynkaanniemi et al. 2019, Improved Precision and Recall Metric for Assessing Generative Models, use them.
    Images are resized to 224 x 224 the TensorFlow 1 way. Arguments and errors as for `inception`; the weights are
    torchvision's. It has no logits.
    """
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    _check_channels("vgg16", data)
    path, content, digest = read(weights, VGG16)
    with understood(path, "torchvision's VGG16 weights"), torch.random.fork_rng(devices=[]):
        network = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=tensors_alone(content))
    return NetworkExtractor(
        network=_Colour(network),
        name="vgg16",
        digest=digest,
        resize="tensorflow-1 bilinear 224",
        device=torch.device(device),
        has_logits=False,
    )


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
    """The image embedding of CLIP (Radford et al. 2021), as torch-fidelity computes it.

    Images are resized to the model's input size the TensorFlow 1 way. Arguments and errors as for `inception`; the
    weights are OpenAI's TorchScript archives, which hold code: others than those are refused. It has no logits.
    """
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS, FeatureExtractorCLIP

    _check_channels(model, data)
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
        network=_Colour(network),
        name=model,
        digest=digest,
        resize=f"tensorflow-1 bilinear {network.resolution}",
        device=torch.device(device),
        has_logits=False,
    )


class _DINOv2(nn.Module):
    """torch-fidelity's treatment of the images before a DINOv2 network."""

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
    """The class token of DINOv2 (Oquab et al. 2023), with the images treated as torch-fidelity does.

    Runs code: the network is defined in its authors' GitHub repository, which torch.hub fetches and runs, so it says
    so in a warning first. Images are resized to 224 x 224 the TensorFlow 1 way. It has no logits; `digest` is that
    of the state dict.

    Raises:
        UserError: the repository or the weights are missing and cannot be fetched.
    """
    _check_channels(model, data)
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
        network=_Colour(_DINOv2(network)),
        name=model,
        digest=digest_of(network),
        resize="tensorflow-1 bilinear 224",
        device=torch.device(device),
        has_logits=False,
        batch_size=16,
    )


def own(
    *,
    network: nn.Module,
    name: str,
    data: ImageSet,
    weights: str | None = None,
    batch_size: int = 64,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> NetworkExtractor:
    """A network of yours as the extractor.

    Its digest, by which features are kept and scores named, is that of its weights and of its modules' plain attributes
    (numbers, text, lists of them). A change of its code takes another `name`.

    Args:
        network: maps uint8 (n, C, H, W), the data set's own images, to float features (n, d), or to the pair of
            them and logits (n, k). It brings them to its own size and range.
        name: what its scores are named after: `fid_<name>-<first digits of its digest>_5k`.
        data: the images to be measured.
        weights: file of its state dict, a dict of tensors; without it the network is used as built.
        batch_size: images at a time.
        cache: unused; every extractor accepts it.
        device: where the network runs.

    Raises:
        UserError: the file cannot be read, or is not of this network; the network does not map two of the images
            to features of that shape.
    """
    if weights:
        path, content, _ = read(weights)
        with understood(path, f"the state dict of {type(network).__name__}"):
            network.load_state_dict(state_of(content))
    extractor = NetworkExtractor(
        network=network,
        name=name,
        digest=hashlib.sha256(f"{digest_of(network)} {design_of(network)}".encode()).hexdigest(),
        resize="its own",
        device=torch.device(device),
        batch_size=batch_size,
    )
    shown = torch.from_numpy(data.images[:2].copy())
    try:
        features, logits = extractor(shown)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"extractor.network: {name} cannot look at images {tuple(shown.shape)}: {error}") from error
    for what, seen in (("features", features), ("logits", logits)):
        if seen.ndim != 2 or len(seen) != len(shown):
            raise UserError(f"extractor.network: {name} must give {what} (n, d), not {tuple(seen.shape)} for n=2")
    return replace(extractor, has_logits=logits.shape[1] > 0)
