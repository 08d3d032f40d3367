"""What a failed capture leaves behind, with CUDA's streams and graphs replaced by what notes their calls."""

import gc
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from gantry.core.cuda_graph import CudaGraphs


class Stream:
    """Notes which streams it waits for."""

    def __init__(self):
        self.waited_for = []

    def wait_stream(self, other):
        self.waited_for.append(other)


@pytest.fixture
def current(monkeypatch):
    stream = Stream()
    fakes = {
        "Stream": lambda device: Stream(),
        "graph_pool_handle": lambda: None,
        "current_stream": lambda device: stream,
        "set_stream": lambda stream: None,
        "stream": lambda stream: nullcontext(),
        "graph": lambda *args, **options: nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=None),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return stream


def test_the_tensors_of_a_failed_capture_are_freed_at_once(current):
    """Without the garbage collector, which runs late: the eager step that follows needs their memory."""
    seen = []

    def fails():
        activations = torch.ones(3)
        seen.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("too large")

    gc.disable()
    try:
        with pytest.raises(torch.OutOfMemoryError) as raised:
            CudaGraphs(torch.device("cpu"))(fails)
        del raised
        assert seen[0]() is None
    finally:
        gc.enable()


def test_what_follows_a_failed_call_waits_for_what_it_had_queued(current):
    graphs = CudaGraphs(torch.device("cpu"))
    with pytest.raises(ValueError, match="the network's own"), graphs.aside():
        raise ValueError("the network's own")
    assert current.waited_for == [graphs.stream]
