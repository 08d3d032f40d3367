"""Finds or downloads weights files, checks their hashes, and reads them without running code in them."""

import hashlib
import io
import json
import logging
import pickle
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from gantry.core.errors import UserError
from gantry.core.safe_load import reason

logger = logging.getLogger(__name__)

DOWNLOAD_TIMEOUT = 15.0  # seconds without a byte
OPTION = "metrics.extractor.weights (evaluate.py: extractor.weights)"
WITHOUT = (
    "Data with labels is measured without it by metrics=classifier in train.py, extractor=classifier in evaluate.py."
)
PLAIN = (bool, int, float, str, tuple, list)
NOT_WEIGHTS = (pickle.UnpicklingError, RuntimeError, TypeError, KeyError, ValueError, EOFError)


@dataclass(frozen=True)
class Published:
    """A weights file that its authors publish.

    Attributes:
        what: a description for messages, with its size.
        url: its address.
        sha256: of the whole file.
        file: its name in torch.hub's folder; by default the last part of the address.
    """

    what: str
    url: str
    sha256: str
    file: str | None = None

    @property
    def path(self) -> Path:
        """Return its path in torch.hub's folder."""
        return Path(torch.hub.get_dir()) / "checkpoints" / (self.file or self.url.rpartition("/")[2])


def read(weights: str | None, published: Published | None = None) -> tuple[Path, bytes, str]:
    """Read the file `weights`, or else the published one; returns its path, its content and the content's sha256.

    Raises:
        UserError: the file cannot be read; or the published one can be neither found nor downloaded, or is damaged.
    """
    path = _fetched(published) if published and not weights else Path(weights or "").expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{OPTION}: cannot read {path}: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if published and not weights and digest != published.sha256:
        raise UserError(f"{path} is damaged: its sha256 is {digest}, not {published.sha256}. Delete the file.")
    return path, content, digest


@contextmanager
def understood(path: Path, what: str) -> Iterator[None]:
    """Within this context, convert the errors of reading and loading an unsuitable file to a `UserError`."""
    try:
        yield
    except NOT_WEIGHTS as error:
        raise UserError(f"{OPTION}: {path} does not hold {what}: {reason(error)}") from error


def state_of(content: bytes) -> Any:
    """Return the state dict in a file's content, without running code in the file."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def tensors_alone(content: bytes) -> io.BytesIO:
    """Return a new file with only a file's tensors, for torch-fidelity, which reads with `weights_only=False`."""
    copy = io.BytesIO()
    torch.save(state_of(content), copy)
    copy.seek(0)
    return copy


def digest_of(network: nn.Module) -> str:
    """Return the sha256 of a network's class and its state dict: names, types, shapes and values."""
    digest = hashlib.sha256(f"{type(network).__module__}.{type(network).__qualname__}".encode())
    state: Mapping[str, Tensor] = network.state_dict()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def design_of(network: nn.Module) -> str:
    """Return the plain attributes of a network's modules as JSON; they affect its output besides the weights.

    Code and attributes of other types are not included.
    """
    attributes = {
        f"{name}.{key}": value
        for name, module in network.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, PLAIN) and not key.startswith("_") and key != "training"
    }
    return json.dumps(attributes, sort_keys=True, default=lambda value: type(value).__qualname__)


def _fetched(published: Published) -> Path:
    """Return the published file's path in torch.hub's folder, downloading it when missing."""
    path = published.path
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"), socket_timeout():
            if not path.exists():
                logger.info("Fetching %s to %s", published.what, path)
                torch.hub.download_url_to_file(published.url, str(path), hash_prefix=published.sha256)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{published.what} are not on this machine and could not be fetched ({error}).\n"
            f"Download {published.url}\n"
            f"(sha256 {published.sha256}) elsewhere and put it, as {path.name}, in {path.parent}\n"
            f"or name the file with metrics.extractor.weights=/path (evaluate.py: extractor.weights=/path).\n{WITHOUT}"
        ) from error
    return path


@contextmanager
def socket_timeout() -> Iterator[None]:
    """Within this context, a connection without data for `DOWNLOAD_TIMEOUT` fails."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
