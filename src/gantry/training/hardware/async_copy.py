"""Copies values from the GPU asynchronously, while training continues."""

import torch
from torch import Tensor


class Fetched:
    """An asynchronous copy from the GPU; `read()` waits for it, on a CPU it returns at once.

    Read one step later, it waits only until the GPU has finished the step of the values, while the next step's work
    is already queued, so that the GPU never idles.

    Args:
        values: detached, of any shape.

    Attributes:
        here: whether the values were on the CPU already.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=values.is_cuda)  # to pinned memory where non-blocking
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(values.device))
        self.here = self._arrived is None

    def arrived(self) -> bool:
        """Return True where `read` would not wait."""
        return self._arrived is None or self._arrived.query()

    def read(self) -> Tensor:
        """Return the values, on the CPU."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values
