"""Holds the inputs of a training step at fixed addresses of the device, which a CUDA graph reads at every replay."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

ALIGNMENT = 256  # bytes, as of memory that CUDA allocates
SLOTS = 3  # buffers of the host: one is filled while others are still copied


@dataclass(frozen=True)
class Kind:
    """The shape and dtype of an input."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """The number of bytes of its values."""
        return prod(self.shape) * self.dtype.itemsize


class _Buffer:
    """One block of memory with a view of it for each input."""

    def __init__(self, kinds: Mapping[str, Kind], device: torch.device, pinned: bool = False) -> None:
        starts, size = {}, 0
        for name, kind in kinds.items():
            starts[name] = size
            size += -(-kind.nbytes // ALIGNMENT) * ALIGNMENT
        self.memory = torch.zeros(size, dtype=torch.uint8, device=device, pin_memory=pinned)
        self.views = {
            name: self.memory[starts[name] :][: kind.nbytes].view(kind.dtype).view(kind.shape)
            for name, kind in kinds.items()
        }
        self.copied: torch.cuda.Event | None = None  # recorded when its last copy to the device was queued


class StaticInputs:
    """The inputs of a step on the device, at addresses that never change, filled without waiting for the device.

    All inputs lie in one block and reach the device in one copy, from pinned memory where that is a GPU. The copy is
    queued on the current stream, so that steps queued before it still read the old values.

    Args:
        kinds: shape and dtype of each input, by name.
        device: of the inputs.

    Attributes:
        tensors: the inputs on the device, by name.
    """

    def __init__(self, kinds: Mapping[str, Kind], device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._device = _Buffer(kinds, device)
        self._hosts = [_Buffer(kinds, torch.device("cpu"), pinned) for _ in range(SLOTS)]
        self.tensors = self._device.views

    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Queue a copy of new values, on the CPU; an input that is not among them holds old values of any step.

        Raises:
            KeyError: a name was not among `kinds`.
            RuntimeError: a value has another shape.
        """
        host = self._hosts.pop(0)
        self._hosts.append(host)
        if host.copied is not None:
            host.copied.synchronize()
        for name, value in values.items():
            host.views[name].copy_(value)
        self._device.memory.copy_(host.memory, non_blocking=True)
        if self._device.memory.is_cuda:
            host.copied = torch.cuda.Event()
            host.copied.record(torch.cuda.current_stream(self._device.memory.device))
