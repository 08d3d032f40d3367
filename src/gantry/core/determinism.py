"""Makes floating-point results repeatable on one kind of device: no reduced precision, deterministic algorithms."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch

Products = Literal["ieee", "tf32"]  # of float32 numbers on a GPU, in torch's words


def whole_float32() -> AbstractContextManager[None]:
    """Compute in full float32: disable TF32 (CUDA) and bfloat16 products (CPU), even where the user allowed them."""
    return float32_products("ieee")


@contextmanager
def float32_products(products: Products) -> Iterator[None]:
    """Multiply float32 numbers in full, or in TF32 on a GPU of CUDA that has it, whatever the user allowed.

    The switches are the process's: they apply to all its threads.
    """
    backends: Any = torch.backends
    short = products == "tf32"
    switches: list[tuple[Any, str, Any]] = [(backends.cuda.matmul, "allow_tf32", short)]
    switches.append((backends.cudnn, "allow_tf32", short))
    if hasattr(backends.cudnn, "conv"):  # torch 2.9 and later; its switches must not be mixed with the older ones
        switches = [(kind, "fp32_precision", products) for kind in (backends.cuda.matmul, backends.cudnn.conv)]
        switches += [(kind, "fp32_precision", "ieee") for kind in (backends.mkldnn.matmul, backends.mkldnn.conv)]
    older = _older_switch()
    before = [getattr(where, name) for where, name, _ in switches]
    try:
        torch.set_float32_matmul_precision("high" if short else "highest")
        for where, name, value in switches:
            setattr(where, name, value)
        yield
    finally:
        torch.set_float32_matmul_precision(older)
        for (where, name, _), value in zip(switches, before, strict=True):
            setattr(where, name, value)


def _older_switch() -> str:
    """Return what `torch.set_float32_matmul_precision` has set, which the newer switches must not contradict."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer switches were used, which contradict its default
        return "highest"


@contextmanager
def repeatable() -> Iterator[None]:
    """Use cuDNN's deterministic algorithms, so that transposed convolutions sum in the same order every time."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
