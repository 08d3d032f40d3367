"""Repeats training steps as captured graphs, one for each kind of step, and checks each against eager steps."""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gantry.core.cuda_graph import Capture
from gantry.models.step import Record
from gantry.models.step_state import Generators, Rates, State, held, states

WARM_UP = 3  # eager steps before a capture, which are compared with as many replays
FAR = 0.05  # difference of the weights after them, relative to their change, that rounding does not explain
MOST = 64  # graphs of one training

log = logging.getLogger(__name__)


class Graph(NamedTuple):
    """A captured step.

    Attributes:
        replay: carries it out.
        names: of its values.
        values: (number of names,), overwritten at every replay of any graph.
    """

    replay: Callable[[], None]
    names: list[str]
    values: Tensor


class GraphedStep:
    """Carries out steps by replaying graphs of them, in which a step takes one call of the host.

    A step is a function without arguments, which reads inputs at fixed addresses and updates weights, buffers and
    optimizers in place. Before the first step of a kind, the function is called `WARM_UP` times, captured, and replayed
    as often; each time the state of training is put back. Where the replays leave other weights than the calls did, or
    the function cannot be captured, steps are carried out eagerly from then on, and a warning gives the reason.

    A step in which an optimizer makes its state, the first, is carried out eagerly. So every step is done in the same
    way in a run that was stopped and resumed.

    Learning rates may change from step to step. A change of other hyperparameters, or of the rate of an optimizer that
    is neither fused nor capturable, is a new kind of step.

    Args:
        capture: makes the graphs.
        networks: by name; their weights and buffers are what a step changes.
        optimizers: those of the step.

    Attributes:
        eager: why steps are carried out eagerly; None where they are replayed.
    """

    def __init__(self, capture: Capture, networks: Mapping[str, nn.Module], optimizers: Sequence[Optimizer]) -> None:
        self.capture, self.networks, self.optimizers = capture, networks, optimizers
        self.rates = Rates(optimizers)
        self.graphs: dict[tuple[object, str], Graph] = {}
        self.eager: str | None = None
        self._captured_at: list[int] = []
        modules = [module for network in networks.values() for module in network.modules()]
        self._holders = [holder for m in modules for holder in (m._parameters, m._buffers) if holder]
        self._device = next(tensor for network in networks.values() for tensor in held(network)).device

    def __call__(self, kind: object, step: Callable[[], Record]) -> Record:
        """Carry out a step, and return its values.

        Args:
            kind: hashable; steps of one kind differ in the inputs' values alone.
            step: carries it out eagerly.
        """
        addresses = self._addresses()
        if addresses != self._captured_at:  # state was made, loaded or replaced since
            self.graphs.clear()
            self.rates, self._captured_at = Rates(self.optimizers), addresses
        self.rates.fill()
        if self.eager is None:
            key = kind, self.rates.others()
            graph = self.graphs.get(key) or self._captured(step)
            if graph is not None:
                self.graphs[key] = graph
                graph.replay()
                return dict(zip(graph.names, graph.values.clone().unbind(), strict=True))
        with self.rates.as_tensors():
            return step()

    def _addresses(self) -> list[int]:
        """Return where everything lies that a step changes: read at every step, and so without `nn.Module`'s walks."""
        tensors = [tensor for holder in self._holders for tensor in holder.values() if tensor is not None]
        groups = [id(group) for optimizer in self.optimizers for group in optimizer.param_groups]
        tensors += [value for optimizer in self.optimizers for value in states(optimizer)]
        return [*groups, *map(Tensor.data_ptr, tensors)]

    def _captured(self, step: Callable[[], Record]) -> Graph | None:
        """Return a graph of the step, checked; None where this step is to be carried out eagerly."""
        if len(self.graphs) >= MOST:
            self._go_on_eagerly(f"there are {MOST} kinds of steps, by the terms due and the optimizers' settings")
            return None
        before, generators = State(self.networks, self.optimizers), Generators(self._device)
        known = {id(optimizer): set(optimizer.state) for optimizer in self.optimizers}
        try:
            with self.rates.as_tensors(), uncaptured():
                for number in range(WARM_UP):
                    with self.capture.aside(strictly=number == WARM_UP - 1):
                        step()
            if any(set(optimizer.state) != known[id(optimizer)] for optimizer in self.optimizers):
                return None  # the states are new: `finally` removes them
            if (problem := self._state_of_the_host(before)) is not None:
                self._go_on_eagerly(problem)
                return None
            expected = State(self.networks, self.optimizers)
            before.restore()
            generators.restore()
            self._forget_gradients()
            graph = self._capture(step)
            for _ in range(WARM_UP):
                graph.replay()
            difference = self._difference(before, expected)
        except Exception as error:  # of any kind: a network, loss or optimizer may be a user's
            self._go_on_eagerly(f"the step cannot be captured ({_reason(error)})")
            return None
        finally:
            for optimizer in self.optimizers:
                for weight in set(optimizer.state) - known[id(optimizer)]:
                    del optimizer.state[weight]
            before.restore()
            generators.restore()
            self._forget_gradients()
        if difference is not None:
            self._go_on_eagerly(difference)
            return None
        return graph

    def _capture(self, step: Callable[[], Record]) -> Graph:
        names: list[str] = []
        outputs: list[Tensor] = []

        def captured() -> None:
            record = step()
            names.extend(record)
            outputs.append(torch.stack([value.float() for value in record.values()]))

        with self.rates.as_tensors():
            replay = self.capture(captured)
        return Graph(replay, names, outputs[0])

    def _state_of_the_host(self, before: State) -> str | None:
        """Name what the step changed on the host, which a graph would not; None without any."""
        if before.settings_changed():
            return "an optimizer changes its settings in each step"
        if before.buffers_replaced():
            return "a network puts new tensors in the place of its buffers, which must be changed in place"
        for optimizer in self.optimizers:
            for state in optimizer.state.values():
                for name, value in state.items():
                    if isinstance(value, int | float) or (isinstance(value, Tensor) and value.device != self._device):
                        return f"{type(optimizer).__name__} keeps its state {name!r} outside the device"
        return None

    def _difference(self, before: State, expected: State) -> str | None:
        """Compare weights and buffers with the expected ones; return a sentence where more than rounding differs."""
        worst = 0.0
        for name, network in self.networks.items():
            for what, tensors in (("weights", list(network.parameters())), ("buffers", list(network.buffers()))):
                now, then, start = map(_flat, (tensors, expected.of(tensors), before.of(tensors)))
                if not then.isfinite().all() or torch.equal(now, then):
                    continue
                apart = float((now - then).norm() / (then - start).norm())
                if not apart < FAR:
                    return (
                        f"{WARM_UP} replays change the {name}'s {what} otherwise than {WARM_UP} eager steps "
                        f"(by {apart:.2g} of the change)"
                    )
                worst = max(worst, apart)
        equal = f"up to {worst:.1g} of its change" if worst else "exactly"
        log.info("%d replays of a captured step are equal to as many eager ones %s", WARM_UP, equal)
        return None

    def _go_on_eagerly(self, why: str) -> None:
        self.eager = why
        self.graphs.clear()
        log.warning("Steps are not replayed as a CUDA graph: %s", why)

    def _forget_gradients(self) -> None:
        """Drop the gradients, whose memory is a graph's."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()


@contextmanager
def uncaptured() -> Iterator[None]:
    """Within this context, leave out torch's warning that a capturable optimizer steps outside a capture."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*capturable=True")
        yield


def _flat(weights: Iterable[Tensor]) -> Tensor:
    return torch.cat(
        [torch.zeros(0, dtype=torch.float64), *(weight.detach().cpu().flatten().double() for weight in weights)]
    )


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
