"""Reads files of tensors without executing code: a file with anything but tensors and plain values is refused."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import IO, Any

import torch

from gantry.core.errors import UserError

DAMAGED = "it is damaged, or no file of tensors"
CODE = "which can run code when read; only tensors and plain values are taken"


def load_plain(source: Path | IO[bytes], what: str) -> Any:
    """Load the tensors, numbers, text, lists and dicts that `torch.save` wrote, onto the CPU.

    Unpickling runs code that the file names; torch's restricted unpickler (`weights_only`) builds only tensors and
    plain values.

    Args:
        source: the file's path, or the file opened for reading.
        what: a description of the file with its path, for the message.

    Raises:
        UserError: the file is missing, truncated, of another kind, or holds more than plain values.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about files that are refused below
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises from anywhere in torch
        raise UserError(f"{what} cannot be read: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Return in one line why a file of tensors could not be read, or its tensors not be used.

    Torch's own message for a file with code advises `weights_only=False`, which runs the code, so it is replaced.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if named := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it holds a Python object ({named[1]}), {CODE}"
    if "TorchScript archive" in text:
        return f"it is a TorchScript archive, {CODE}"
    if isinstance(error, pickle.UnpicklingError | EOFError | KeyError) or not text.strip():
        return DAMAGED
    return text.strip().splitlines()[0].partition(". ")[0]
