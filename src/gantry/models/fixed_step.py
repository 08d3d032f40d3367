"""Carries out the steps of a training on a device on inputs at fixed addresses, replayed as CUDA graphs or eagerly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gantry.core.cuda_graph import Capture
from gantry.models.graphed_step import GraphedStep
from gantry.models.static_inputs import Kind, StaticInputs
from gantry.models.step import Record
from gantry.models.step_inputs import IMAGES

# From inputs by name, among them those of a batch, to images, uint8 (n_critic, B, C, H, W), all on the device.
Images = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass
class FixedStep:
    """The steps of a training on a GPU.

    Args:
        capture: returns what makes graphs of a training on a device; None: steps are carried out eagerly.
        images: makes images of a batch of indices; None: a batch holds images.

    Attributes:
        graphed: replays the steps; None where they are carried out eagerly by Lightning's engine, or before `begin`.
    """

    capture: Callable[[torch.device], Capture] | None
    images: Images | None = None
    graphed: GraphedStep | None = field(default=None, init=False)
    _inputs: StaticInputs | None = field(default=None, init=False)

    def begin(self, networks: Mapping[str, nn.Module], optimizers: Sequence[Optimizer], device: torch.device) -> None:
        """Begin a training, whose networks and optimizers lie on the device."""
        self.end()
        if self.capture is not None:
            self.graphed = GraphedStep(self.capture(device), networks, optimizers)

    def end(self) -> None:
        """Drop the graphs, whose addresses hold no longer, and their memory."""
        self.graphed = self._inputs = None

    def __call__(
        self,
        kind: object,
        kinds: Callable[[], Mapping[str, Kind]],
        values: Mapping[str, Tensor],
        step: Callable[[Mapping[str, Tensor]], Record],
        device: torch.device,
    ) -> Record:
        """Carry out a step.

        Args:
            kind: hashable; steps of one kind differ in the values of their inputs alone.
            kinds: returns the shape and dtype of all inputs of any step.
            values: the inputs of this step, on the CPU.
            step: carries it out eagerly, on inputs on the device, with the images among them.
            device: of the networks.
        """
        if self._inputs is None:
            self._inputs = StaticInputs(kinds(), device)
        self._inputs.fill(values)
        tensors = self._inputs.tensors

        def on_fixed_inputs() -> Record:
            return step(tensors if self.images is None else {**tensors, IMAGES: self.images(tensors)})

        return on_fixed_inputs() if self.graphed is None else self.graphed(kind, on_fixed_inputs)
