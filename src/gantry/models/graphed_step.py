"""Repeats training steps as captured graphs, one for each kind of step, and checks each against eager steps."""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gantry.core.cuda_graph import Capture
from gantry.models.step import Record

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
        addresses: of the weights and buffers it was captured with.
    """

    replay: Callable[[], None]
    names: list[str]
    values: Tensor
    addresses: list[int]


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
        self._fixed = [tensor for network in networks.values() for tensor in _held(network)]

    def __call__(self, kind: object, step: Callable[[], Record]) -> Record:
        """Carry out a step, and return its values.

        Args:
            kind: hashable; steps of one kind differ in the inputs' values alone.
            step: carries it out eagerly.
        """
        self.rates.fill()
        if self.eager is None:
            key = kind, self.rates.others()
            addresses = list(map(Tensor.data_ptr, self._fixed))
            if (graph := self.graphs.get(key)) is not None and graph.addresses != addresses:
                self.graphs.clear()  # a callback has replaced weights
                graph = None
            graph = graph or self._captured(step, addresses)
            if graph is not None:
                self.graphs[key] = graph
                graph.replay()
                return dict(zip(graph.names, graph.values.clone().unbind(), strict=True))
        with self.rates.as_tensors():
            return step()

    def _captured(self, step: Callable[[], Record], addresses: list[int]) -> Graph | None:
        """Return a graph of the step, checked; None where this step is to be carried out eagerly."""
        if len(self.graphs) >= MOST:
            self._go_on_eagerly(f"the optimizers' settings have changed {MOST} times")
            return None
        before, generators = State(self), Generators(self._fixed[0].device)
        known = {id(optimizer): set(optimizer.state) for optimizer in self.optimizers}
        try:
            with self.rates.as_tensors(), self.capture.aside(), uncaptured():
                for _ in range(WARM_UP):
                    step()
            if any(set(optimizer.state) != known[id(optimizer)] for optimizer in self.optimizers):
                return None  # the states are new: `finally` removes them
            if (problem := self._state_of_the_host()) is not None:
                self._go_on_eagerly(problem)
                return None
            expected = State(self)
            before.restore()
            generators.restore()
            self._forget_gradients()
            graph = self._capture(step, addresses)
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

    def _capture(self, step: Callable[[], Record], addresses: list[int]) -> Graph:
        names: list[str] = []
        outputs: list[Tensor] = []

        def captured() -> None:
            record = step()
            names.extend(record)
            outputs.append(torch.stack([value.float() for value in record.values()]))

        with self.rates.as_tensors():
            replay = self.capture(captured)
        return Graph(replay, names, outputs[0], addresses)

    def _state_of_the_host(self) -> str | None:
        """Name an optimizer's state that a graph would not update; None without any."""
        device = self._fixed[0].device
        for optimizer in self.optimizers:
            for state in optimizer.state.values():
                for name, value in state.items():
                    if isinstance(value, int | float) or (isinstance(value, Tensor) and value.device != device):
                        return f"{type(optimizer).__name__} keeps its state {name!r} outside the device"
        return None

    def _difference(self, before: "State", expected: "State") -> str | None:
        """Compare the weights with the expected ones; return a sentence where they differ by more than rounding."""
        worst = 0.0
        for name, network in self.networks.items():
            now, then, start = map(_flat, (network.parameters(), expected.of(network), before.of(network)))
            if not then.isfinite().all() or torch.equal(now, then):
                continue
            apart = float((now - then).norm() / (then - start).norm())
            if not apart < FAR:
                return (
                    f"{WARM_UP} replays change the {name}'s weights otherwise than {WARM_UP} eager steps "
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


class State:
    """A copy, in the host's memory, of all that a step changes: weights, buffers, and the optimizers' state."""

    def __init__(self, step: GraphedStep) -> None:
        tensors = [tensor for network in step.networks.values() for tensor in _held(network)]
        tensors += [value for optimizer in step.optimizers for value in _states(optimizer)]
        self.copies = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in tensors]
        states = [state for optimizer in step.optimizers for state in optimizer.state.values()]
        self.numbers = [(s, {name: v for name, v in s.items() if not isinstance(v, Tensor)}) for s in states]
        self._by_id = {id(tensor): copy for tensor, copy in self.copies}

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the values back to where they were."""
        for tensor, copy in self.copies:
            tensor.copy_(copy)
        for state, numbers in self.numbers:
            state.update(numbers)

    def of(self, network: nn.Module) -> list[Tensor]:
        """Return the copies of a network's weights."""
        return [self._by_id[id(weight)] for weight in network.parameters()]


class Generators:
    """The state of torch's global random generator of the device, which a network of a user may draw from."""

    def __init__(self, device: torch.device) -> None:
        self.device = device if device.type == "cuda" else None
        self.state = torch.get_rng_state() if self.device is None else torch.cuda.get_rng_state(self.device)

    def restore(self) -> None:
        """Put the state back."""
        if self.device is None:
            torch.set_rng_state(self.state)
        else:
            torch.cuda.set_rng_state(self.state, self.device)


class Rates:
    """Learning rates of optimizers, as tensors on the device where the optimizer can read them there.

    Outside a step an optimizer's rate is a number, which schedules and callbacks read and set.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.tensors: list[Tensor | None] = []
        for group in self.groups:
            device = group["params"][0].device
            dtype = torch.float32 if device.type == "cuda" else torch.float64  # what the fused kernels read
            on_device = "lr" in group and (group.get("fused") or group.get("capturable"))
            self.tensors.append(torch.tensor(float(group["lr"]), dtype=dtype, device=device) if on_device else None)
        self.filled = [float(group["lr"]) if tensor is not None else None for group, tensor in self._pairs()]
        self._told: tuple[list[dict[str, Any]], str] | None = None  # the others when last told, and as text

    def fill(self) -> None:
        """Give the tensors the current rates, where these have changed."""
        for number, (group, tensor) in enumerate(self._pairs()):
            if tensor is not None and self.filled[number] != group["lr"]:
                tensor.fill_(group["lr"])
                self.filled[number] = group["lr"]

    def others(self) -> str:
        """Return all hyperparameters that are no tensors, as text."""
        now = [dict(group) for group in self.groups]
        for others, tensor in zip(now, self.tensors, strict=True):
            del others["params"]
            if tensor is not None:
                del others["lr"]
        if self._told is None or self._told[0] != now:
            # A copy, since lists and tensors may change in place.
            self._told = deepcopy(now), repr([list(others.items()) for others in now])
        return self._told[1]

    @contextmanager
    def as_tensors(self) -> Iterator[None]:
        """Within this context the optimizers' rates are the tensors."""
        numbers = [group.get("lr") for group in self.groups]
        for group, tensor in self._pairs():
            if tensor is not None:
                group["lr"] = tensor
        try:
            yield
        finally:
            for (group, tensor), number in zip(self._pairs(), numbers, strict=True):
                if tensor is not None:
                    group["lr"] = number

    def _pairs(self) -> "zip[tuple[dict[str, Any], Tensor | None]]":
        return zip(self.groups, self.tensors, strict=True)


@contextmanager
def uncaptured() -> Iterator[None]:
    """Within this context, leave out torch's warning that a capturable optimizer steps outside a capture."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*capturable=True")
        yield


def _held(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _flat(weights: Iterable[Tensor]) -> Tensor:
    return torch.cat([weight.detach().cpu().flatten().double() for weight in weights])


def _states(optimizer: Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
