"""Builds networks without values, to know the shapes of their weights without filling memory."""

from typing import Any

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.overrides import TorchFunctionMode


class Uninitialised(TorchFunctionMode):
    """Skips initialisation: meta tensors have no values, and for some initialisers torch would import its compiler.

    The power iterations of spectral normalisation are skipped too, which take a second and allocate next to nothing.
    """

    def __enter__(self) -> "Uninitialised":
        self._iterate = _SpectralNorm._power_method
        _SpectralNorm._power_method = _nothing  # type: ignore[method-assign, assignment]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _SpectralNorm._power_method = self._iterate  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _nothing(*_: Any) -> None:
    pass
