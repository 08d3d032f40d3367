"""Makes floating-point results repeatable on one kind of device: no reduced precision, deterministic algorithms."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def whole_float32() -> Iterator[None]:
    """Compute in full float32: disable TF32 (CUDA) and bfloat16 products (CPU), even where the user allowed them."""
    backends: Any = torch.backends
    switches: list[tuple[Any, str, Any]] = [(backends.cuda.matmul, "allow_tf32", False)]
    switches.append((backends.cudnn, "allow_tf32", False))
    if hasattr(backends.cudnn, "conv"):  # torch 2.9 and later; its switches must not be mixed with the older ones
        kinds = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        switches = [(kind, "fp32_precision", "ieee") for kind in kinds]
    before = [getattr(where, name) for where, name, _ in switches]
    try:
        for where, name, value in switches:
            setattr(where, name, value)
        yield
    finally:
        for (where, name, _), value in zip(switches, before, strict=True):
            setattr(where, name, value)


@contextmanager
def repeatable() -> Iterator[None]:
    """Use cuDNN's deterministic algorithms, so that transposed convolutions sum in the same order every time."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
