"""Finds out whether this machine can keep files, such as images and generators, where a store wants them.

MLflow sends numbers to the store, but files straight to the experiment's address: a path of the server's own disk, a
cloud whose client must be installed here, or the server, which may be told not to serve files.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gantry.core.errors import UserError
from gantry.core.redaction import brief, redact
from gantry.runs.tracking.addresses import local_path

if TYPE_CHECKING:
    from mlflow.entities import Run

CLIENTS = {  # by the scheme of an address: the module that MLflow needs, and its package
    "s3": ("boto3", "boto3"),
    "gs": ("google.cloud.storage", "google-cloud-storage"),
    "wasbs": ("azure.storage.blob", "azure-storage-blob"),
    "abfss": ("azure.storage.filedatalake", "azure-storage-file-datalake"),
    "hdfs": ("pyarrow", "pyarrow"),
    "sftp": ("pysftp", "pysftp"),
}
SERVE = "start the server with --serve-artifacts and --artifacts-destination"
ANEW = f"{SERVE}, and name a new experiment with tracking.experiment=..., since one keeps its address"
LONGEST = 150  # characters of an error


class FilesAway(UserError):
    """A store takes a run's numbers, but its files cannot be kept where the store wants them."""


def check_files(run: Run, uri: str) -> None:
    """Check that a run's files can be kept; waits for the store.

    Args:
        run: as the store returns it.
        uri: the store's address.

    Raises:
        FilesAway: they cannot; the message says why, and what helps.
    """
    address = str(run.info.artifact_uri)
    path = local_path(address)
    why = _on_disk(path, uri) if path is not None else _elsewhere(address, uri)
    if why is not None:
        raise FilesAway(f"its files (images, generators) cannot be kept in {redact(address)}: {why}")


def _on_disk(path: Path, uri: str) -> str | None:
    """Return why a run's files cannot be kept in a folder; None where they can."""
    server = urlsplit(uri)
    remote = server.scheme in ("http", "https") and not _is_here(server.hostname or "")
    above = list(path.parents)[1:3]  # of <experiment's address>/<run's id>/artifacts
    if remote and not any(folder.exists() for folder in above):
        return f"this folder is on the disk of {server.hostname}, not of this machine; {ANEW}; or share the folder"
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        help_ = ANEW if server.scheme in ("http", "https") else "tracking.experiment=... names one with another folder"
        return f"{there} cannot be written; {help_}"
    return None


def _elsewhere(address: str, uri: str) -> str | None:
    """Return why files cannot be kept at a server's or a cloud's address; None where they can."""
    scheme = urlsplit(address).scheme
    module, package = CLIENTS.get(scheme, (None, None))
    if module is not None and not _is_installed(module):
        return f"this needs a package: pip install {package}"
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        get_artifact_repository(address, uri).list_artifacts()
    except Exception as error:  # whatever MLflow, the network or a cloud's client raises
        served = scheme == "mlflow-artifacts"
        why = "the server serves no files" if served and " 503 " in str(error) else brief(error, LONGEST)
        return f"{why}; {SERVE if served else 'see its credentials and address'}"
    return None


def _is_here(host: str) -> bool:
    return host in ("localhost", "::1", socket.gethostname()) or host.startswith("127.")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
