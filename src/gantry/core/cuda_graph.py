"""Captures functions as CUDA graphs: the device repeats their kernels at one call of the host."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch


class Capture(Protocol):
    """Records what a function does on the device, to be repeated without the host."""

    def aside(self, strictly: bool = False) -> AbstractContextManager[None]:
        """Return the context in which a function is called before it is captured.

        Args:
            strictly: whether what no capture allows raises a RuntimeError here already.
        """

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record a function without carrying it out, and return what carries it out again."""


class CudaGraphs:
    """A `Capture` by CUDA graphs, which share one pool of memory.

    What a graph returns in tensors must be read before another of them is replayed, since they use the same memory.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # One stream for both: the backward pass of a capture must not meet a stream of earlier calls.
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self, strictly: bool = False) -> Iterator[None]:
        """Within this context, queue work on the stream of the captures, after what the current stream holds.

        Strictly, waiting for the device raises: before torch 2.12 a capture that fails leaves the allocator unusable.
        """
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream), _no_waiting() if strictly else nullcontext():
                yield
        finally:  # after an error too, since what was queued is still running
            current.wait_stream(self.stream)

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        """Capture a function that does nothing but queue work on the device.

        Raises:
            RuntimeError: it synchronises with the host, or does what cannot be captured.
        """
        graph = torch.cuda.CUDAGraph()
        failed: list[Exception] = []
        current = torch.cuda.current_stream(self.device)
        # cuBLAS's workspaces of the warm-up are freed at the end of a fit, while a graph would go on writing to them.
        torch._C._cuda_clearCublasWorkspaces()
        try:
            # Other threads may use CUDA meanwhile: those that draw images, or move a batch.
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                try:
                    function()
                except Exception as error:
                    failed.append(error)
        except RuntimeError as error:  # the end of a capture that has failed
            failed.append(error)
        finally:
            torch._C._cuda_clearCublasWorkspaces()
            torch.cuda.set_stream(current)  # torch leaves its own stream current where a capture fails
        if failed:
            raise failed.pop(0)  # a list that kept it would keep the tensors of its traceback too, in a cycle
        return graph.replay


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Within this context, raise a RuntimeError where the host would wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
