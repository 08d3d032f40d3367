"""Numbers that are fetched from the device while training goes on."""

import torch
from torch import Tensor


class Fetched:
    """Values on their way from a GPU, or already here.

    Read a step later they are waited for only as long as it takes the GPU to end the step they are of, while it has
    the next one's work waiting: it never runs dry.

    Args:
        values: detached, of any shape.

    Attributes:
        here: whether they were never on their way.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=values.is_cuda)  # then into pinned memory
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(values.device))
        self.here = self._arrived is None

    def arrived(self) -> bool:
        """Whether reading them now would wait for nothing."""
        return self._arrived is None or self._arrived.query()

    def read(self) -> Tensor:
        """The values, on the CPU."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values
