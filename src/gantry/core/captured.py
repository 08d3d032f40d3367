"""Runs a function of tensors as one CUDA graph; on a CPU a stand-in calls it on the same kind of static buffers."""

from collections.abc import Callable

import torch
from torch import Tensor

from gantry.core.cuda_graph import CudaGraphs

Outputs = Tensor | tuple[Tensor, ...]


class Captured:
    """A function of tensors with static inputs and outputs, which a GPU replays as one CUDA graph.

    A call copies its arguments into `inputs`, replays the graph and returns the outputs, which are the same tensors
    each time: the next call overwrites them, so a caller that keeps them clones them. On a CPU a call runs the function
    on `inputs` and copies its results to outputs that are overwritten in the same way.

    Args:
        function: maps tensors to a tensor or a tuple of tensors. It does not wait for the GPU, and what it does in
            Python happens in the warm-up and the capture only. It may change other tensors in place, whose addresses
            must stay.
        examples: tensors of the shapes, types and device of every later call's arguments. Their values are used in the
            warm-up.
        warm_up: calls before the capture, in which libraries choose algorithms and allocate. They have all effects of
            a call. The capture itself computes nothing.

    Attributes:
        inputs: the static inputs, which may be filled directly too.

    Raises:
        RuntimeError: the function cannot be captured, because it waits for the GPU, say; or the memory is too small.
    """

    def __init__(self, function: Callable[..., Outputs], *examples: Tensor, warm_up: int = 3) -> None:
        with torch.inference_mode(False):  # whose tensors could not be refilled outside of it
            self.inputs = tuple(example.detach().clone() for example in examples)
        self._function = function
        self._outputs: Outputs | None = None
        self._replay: Callable[[], None] | None = None
        if not self.inputs[0].is_cuda:
            for _ in range(warm_up):
                function(*self.inputs)
            return
        graphs = CudaGraphs(self.inputs[0].device)
        for number in range(warm_up):
            with graphs.aside(strictly=number == warm_up - 1):
                function(*self.inputs)
        self._replay = graphs(self._capture)

    def __call__(self, *arguments: Tensor) -> Outputs:
        """Compute the function of `arguments`; pinned memory among them must stay unchanged until it is read."""
        for held, given in zip(self.inputs, arguments, strict=True):
            held.copy_(given, non_blocking=True)
        return self.replay()

    def replay(self) -> Outputs:
        """Compute the function of what `inputs` hold."""
        if self._replay is not None:
            self._replay()
        else:
            results = self._function(*self.inputs)
            with torch.inference_mode(False), torch.no_grad():
                self._keep(results)
        assert self._outputs is not None
        return self._outputs

    def _capture(self) -> None:
        self._outputs = self._function(*self.inputs)

    def _keep(self, results: Outputs) -> None:
        """Copy results to the static outputs, so that they are overwritten on a CPU too."""
        if self._outputs is None:
            self._outputs = (
                results.clone() if isinstance(results, Tensor) else tuple(result.clone() for result in results)
            )
            return
        for held, result in zip(_as_tuple(self._outputs), _as_tuple(results), strict=True):
            held.copy_(result)


def _as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs
