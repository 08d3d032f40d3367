"""Copies of all that a training step changes, and the learning rates that it reads on the device."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class State:
    """A copy, in the host's memory, of all that a step changes: weights, buffers, and the optimizers' state.

    Args:
        networks: by name.
        optimizers: of the step.
    """

    def __init__(self, networks: Mapping[str, nn.Module], optimizers: Sequence[Optimizer]) -> None:
        modules = [module for network in networks.values() for module in network.modules()]
        # A buffer may be replaced by a new tensor, not only filled.
        self.buffers = [(m, name, buffer) for m in modules for name, buffer in m._buffers.items() if buffer is not None]
        tensors = [tensor for network in networks.values() for tensor in held(network)]
        tensors += [value for optimizer in optimizers for value in states(optimizer)]
        self.copies = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in tensors]
        everything = [state for optimizer in optimizers for state in optimizer.state.values()]
        self.numbers = [(s, {name: v for name, v in s.items() if not isinstance(v, Tensor)}) for s in everything]
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.settings = [(group, {name: v for name, v in group.items() if name != "params"}) for group in groups]
        self._by_id = {id(tensor): copy for tensor, copy in self.copies}

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back where it was."""
        for module, name, buffer in self.buffers:
            module._buffers[name] = buffer
        for tensor, copy in self.copies:
            tensor.copy_(copy)
        for state, numbers in self.numbers:
            state.update(numbers)
        for group, kept in self.settings:
            for name in group.keys() - kept.keys() - {"params"}:
                del group[name]
            group.update(kept)

    def settings_changed(self) -> bool:
        """Return True where an optimizer's settings are others by now."""
        return any({**kept, "params": group["params"]} != group for group, kept in self.settings)

    def buffers_replaced(self) -> bool:
        """Return True where a network has a new tensor in the place of a buffer."""
        return any(module._buffers.get(name) is not buffer for module, name, buffer in self.buffers)

    def of(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return the copies of some of the tensors."""
        return [self._by_id[id(tensor)] for tensor in tensors]


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


def held(network: nn.Module) -> list[Tensor]:
    """Return the weights and buffers of a network."""
    return [*network.parameters(), *network.buffers()]


def states(optimizer: Optimizer) -> Iterator[Tensor]:
    """Yield the tensors of an optimizer's state."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
