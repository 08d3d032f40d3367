"""Files of tensors, read as data: whatever else they hold is refused, and none of it runs."""

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
    """The tensors, numbers, text, lists and dicts that `torch.save` wrote, on the processor.

    Unpickling runs what the file names; torch's own unpickler (`weights_only`) builds tensors and plain values alone.

    Args:
        source: the file, or one opened for reading.
        what: what it is to the user, with its path, for the message.

    Raises:
        UserError: it is missing, cut short, of another kind, or holds more than plain values.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # on what is refused here
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # of a missing file, or from whatever depth of torch a damaged one reaches
        raise UserError(f"{what} cannot be read: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Why a file of tensors could not be read, or its tensors not be used, in one line.

    Torch's own words on a file with code in it advise reading it with `weights_only=False`, which runs the code.
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
