"""Feature extractors: images in, the features and logits that the scores are computed from out."""

import hashlib
import io
import logging
import pickle
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from filelock import FileLock
from torch import Tensor, nn

from gantry.data.images import ImageSet
from gantry.errors import UserError

logger = logging.getLogger(__name__)

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d"  # the file's name ends with the first digits of its hash
DOWNLOAD_TIMEOUT = 15.0  # seconds without a byte


class Features(NamedTuple):
    """What an extractor sees in n images: `features` (n, d) and `logits` (n, k), both float32 on the CPU."""

    features: Tensor
    logits: Tensor


class Extractor(Protocol):
    """What the evaluator needs of a feature extractor.

    Attributes:
        name: what its scores are named after ("inception", "classifier").
        digest: sha256 of the weights, hexadecimal.
        official: the papers' own network and weights, so that its scores may bear the papers' names.
        labelled: the logits are those of the data set's own classes.
        resize: how it brings images to its own input size.
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
    def resize(self) -> str: ...
    @property
    def details(self) -> Mapping[str, str | int | float]: ...

    def __call__(self, images: Tensor) -> Features:
        """The features of `images`: uint8 (n, C, H, W), any device, any n."""
        ...


@dataclass(frozen=True, eq=False)
class NetworkExtractor:
    """An `Extractor` around a network that maps uint8 (n, C, H, W) to the pair (features, logits).

    The network is frozen and put in eval mode; it runs in float32 whatever autocast surrounds it, and on
    `batch_size` images at a time.
    """

    network: nn.Module
    name: str
    digest: str
    resize: str
    device: torch.device
    official: bool = False
    labelled: bool = False
    batch_size: int = 64
    details: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False).to(self.device)

    def __call__(self, images: Tensor) -> Features:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(f"images must be uint8 (n, C, H, W), not {images.dtype} {tuple(images.shape)}")
        parts = []
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for batch in images.split(self.batch_size):
                features, logits = self.network(batch.to(self.device))
                parts.append((features.float().cpu(), logits.float().cpu()))
        return Features(torch.cat([f for f, _ in parts]), torch.cat([y for _, y in parts]))


class _Colour(nn.Module):
    """Repeats greyscale to the three channels the network wants; the resizing, inside it, comes after."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)


def inception(
    *,
    weights: str | None = None,
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
        data: the images to be measured; greyscale is repeated to three channels.
        cache: unused; every extractor accepts it.
        device: where the network runs.

    Raises:
        UserError: the weights are missing and cannot be fetched, are damaged, or are not of this network; the
            images have neither one nor three channels.
    """
    if data is not None and data.images.shape[1] not in (1, 3):
        raise UserError(f"metrics=inception needs 1 or 3 channels; {data.name} has {data.images.shape[1]}")
    path = Path(weights).expanduser() if weights else _official_weights()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"metrics.extractor.weights: cannot read {path}: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    official = digest.startswith(INCEPTION_SHA256)
    if not weights and not official:
        raise UserError(f"{path} is damaged: its sha256 begins {digest[:8]}, not {INCEPTION_SHA256}. Delete the file.")
    return NetworkExtractor(
        network=_Colour(_load_inception(content, path)),
        name="inception",
        digest=digest,
        resize="tensorflow-1 bilinear 299",
        device=torch.device(device),
        official=official,
    )


def _load_inception(content: bytes, path: Path) -> nn.Module:
    """The network with the state dict in `content`.

    torch-fidelity reads its file with `weights_only=False`, which runs any code the file holds. So the file
    is read safely here, and torch-fidelity gets a fresh copy of the tensors alone.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        with torch.random.fork_rng(devices=[]):  # the constructor initialises what is then overwritten
            return FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=copy
            )
    except (pickle.UnpicklingError, RuntimeError, TypeError, KeyError, ValueError, EOFError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"metrics.extractor.weights: {path} does not hold torch-fidelity's Inception weights: {reason}"
        ) from error


def _official_weights() -> Path:
    """The official weights file where torch-fidelity looks for it, downloaded there when missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rsplit("/", 1)[-1]
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"), _socket_timeout(DOWNLOAD_TIMEOUT):
            if not path.exists():
                logger.info("Fetching the Inception weights of FID (91 MB) to %s", path)
                torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix=INCEPTION_SHA256)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"The Inception weights of FID are not on this machine and could not be fetched ({error}).\n"
            f"Download {INCEPTION_URL}\n"
            f"(sha256 begins {INCEPTION_SHA256}) elsewhere and put it, as {path.name}, in {path.parent}\n"
            "or name the file with metrics.extractor.weights=/path.\n"
            "For data with labels, metrics=classifier measures without it."
        ) from error
    return path


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
