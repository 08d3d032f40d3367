"""Checks output paths and ports before torch is imported."""

import socket
from pathlib import Path

from gantry.core.errors import UserError
from gantry.core.processes.locks import LOCK_FILE

ADDRESS = "127.0.0.1"  # of the page
LABELS = ".labels.npy"  # ending of the labels beside the latents of a projection
SETTINGS = ".samples.json"  # in a folder of images: the settings they were generated with


def check_free(out: Path) -> None:
    """Refuse an existing .npz, a picture's path that is a folder, and a folder with other files.

    Raises:
        UserError: names the obstacle.
    """
    suffix = out.suffix.lower()
    if not out.exists():
        return
    if suffix == ".npz":
        raise UserError(f"out={out} is there already; remove it, or choose another name")
    if suffix == ".png":
        if out.is_dir():
            raise UserError(f"out={out} is a folder; name a file")
    elif not out.is_dir():
        raise UserError(f"out={out} is a file; name a folder, or a file that ends in .png or .npz")
    elif not (out / SETTINGS).exists() and any(path.name != LOCK_FILE for path in out.iterdir()):
        raise UserError(f"out={out} holds other files; choose an empty or a new folder")


def check_port(port: int) -> None:
    """Refuse a port of the loopback interface that cannot be bound.

    Raises:
        UserError: names the reason.
    """
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: one just ended does not block it
        try:
            tried.bind((ADDRESS, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"port={port} cannot be had on {ADDRESS}: {error}; choose another with port=") from error
