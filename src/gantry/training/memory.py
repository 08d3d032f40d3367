"""Computes the memory of a training step before anything is allocated, and compares it with what there is.

The step itself runs, on torch's meta device, whose tensors have shapes and no values; what it holds at its fullest is
counted tensor by tensor. Not counted are the libraries' own buffers (a convolution's workspace), the data set, and
measuring.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from gantry.core.errors import OUT_OF_MEMORY, RunFailed, UserError
from gantry.core.processes.devices import jobs_sharing
from gantry.core.processes.host_memory import gib, host_memory
from gantry.core.processes.ranks import Place
from gantry.data.images import ImageSet
from gantry.models.module import GAN
from gantry.models.objective import objective
from gantry.models.scheduled import without_schedules
from gantry.models.step import Plain, Turn, step
from gantry.models.step_inputs import IMAGES, LABELS, VALUE, plan, turns
from gantry.models.uninitialised import Uninitialised
from gantry.training.hardware.memory_share import memory_share
from gantry.training.model import build_model

TIGHT = 0.6  # share of the free memory above which a run is warned; libraries' own buffers come on top
WHOLE = 4  # bytes of a weight, of its gradient, and of each value of an optimizer's state

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Need:
    """The memory of a training step on one device, bytes.

    Attributes:
        weights: of both networks, the averaged generator, gradients, and the optimizers' state.
        activations: the most that a step holds besides, at the batch size.
    """

    weights: int
    activations: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.weights + self.activations


@dataclass(frozen=True)
class There:
    """The memory of a device, or of a job's part of it.

    Attributes:
        name: says of what.
        total, free: bytes: all of it, and what is free of it now.
        jobs: number of a sweep's jobs that share the device.
    """

    name: str
    total: int
    free: int
    jobs: int = 1


class Counted(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive within this context, `now` and at most (`peak`)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class _Cast(nn.Module):
    """Gives a network its input in `dtype`, as mixed precision does."""

    def __init__(self, network: Callable[..., Any], dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor, **further: Any) -> Any:
        cast = {name: value.to(self.dtype) if name == "codes" else value for name, value in further.items()}
        return self.network(x.to(self.dtype), **cast)


class _Gradients(Plain):
    """Computes gradients and leaves the weights alone, since optimizers update them in place."""

    def update(self, optimizer: Optimizer) -> None:
        pass


def say_need(cfg: DictConfig, data: ImageSet, device: torch.device, place: Place, world_size: int) -> None:
    """Print what a training step needs and what there is, on rank 0; before the networks are built.

    Args:
        cfg: the run's config with its precision resolved.
        data: the images; only their shape counts.
        device: of this process.
        place: its place among the run's ranks.
        world_size: number of the run's ranks.

    Raises:
        RunFailed: it cannot fit; see `report`.
    """
    if (needed := need(cfg, data, world_size)) is None:
        return
    here = world_size // max(1, cfg.trainer.get("num_nodes", 1))
    said = report(needed, there(device), cfg, world_size, 1 if device.type == "cuda" else here)
    if place.rank == 0:
        print(said, flush=True)


def need(cfg: DictConfig, data: ImageSet, world_size: int = 1) -> Need | None:
    """Compute the memory of a step of a run with `cfg` on one of `world_size` devices.

    Args:
        cfg: the run's config with its precision resolved.
        data: the images; only their shape counts.

    Returns:
        None where a network of the user's own does not run on the meta device.
    """
    try:
        mixed = {"bf16": torch.bfloat16, "16-m": torch.float16}.get(str(cfg.trainer.precision)[:4], torch.float32)
        with torch.random.fork_rng(devices=[]), Uninitialised():
            with torch.device("meta"):
                gan, _ = build_model(cfg, data)
            return _measured(gan, data.shape, gan.batch_size // world_size, mixed)
    except UserError:
        raise
    except Exception as error:  # a user's network may do anything with its input
        log.debug("The memory of a step is not known: %s", error, exc_info=True)
        return None


def _measured(gan: GAN, shape: tuple[int, ...], batch: int, dtype: torch.dtype) -> Need:
    gan.grown.set(0.0)  # networks that grow hold the most when they are whole
    generator, discriminator = (_Cast(network.to(dtype), dtype) for network in (gan.generator, gan.discriminator))
    players = replace(
        gan.players,
        generator=generator,
        discriminator=discriminator,
        generate=generator,
        discriminate=discriminator,
        encode=None if gan.players.encode is None else _Cast(gan.players.encode, dtype),
    )
    networks = {"generator": generator, "discriminator": discriminator}
    factories = {"generator": gan.optimizer, "discriminator": gan.discriminator_optimizer}
    made = {name: without_schedules(factory)[0] for name, factory in factories.items()}
    optimizers = {name: made[name](network.parameters()) for name, network in networks.items()}
    weights = {name: sum(each.numel() for each in network.parameters()) for name, network in networks.items()}
    held = []  # in each turn: what it takes, and the gradients that the other turn has left
    with Counted() as counted:
        for tensor in (*gan.parameters(), *gan.buffers()):  # of which views are made
            counted.add(tensor)
        for turn in _turns(gan, (batch, *shape)):
            kept = counted.now
            counted.peak = kept
            step(players, [turn], optimizers, 0.5, _Gradients(), gan.accumulate)
            (others,) = (count for name, count in weights.items() if name != turn.player)
            held.append(counted.peak - kept + WHOLE * others)
    both, averaged = sum(weights.values()), sum(each.numel() for each in gan.averaged.parameters())
    for optimizer in optimizers.values():
        optimizer.step()  # which makes its state
    values = (value for one in optimizers.values() for each in one.state.values() for value in each.values())
    state = sum(value.numel() for value in values if isinstance(value, Tensor))
    copies = both * dtype.itemsize if dtype != torch.float32 else 0  # autocast keeps those of this precision
    return Need(WHOLE * (2 * both + averaged + state) + copies, max(0, max(held) - WHOLE * both))


def _turns(gan: GAN, shape: tuple[int, ...]) -> list[Turn]:
    """Return a turn of each player on the meta device, with every term due, for images of `shape`, (B, C, H, W)."""
    terms = objective(gan.loss, gan.penalties, gan.terms, gan.top_k)
    planned = plan(terms, 0, replace(gan.order, n_critic=1, first="discriminator"), everything=True)
    with torch.device("meta"):
        inputs = {
            turn.key(purpose): torch.empty(draw.shape(shape[0]), dtype=draw.dtype)
            for turn in planned
            for purpose, draw in turn.drawn(gan.inputs).items()
        }
        inputs[IMAGES] = torch.empty((gan.real_batches, *shape), dtype=torch.uint8)
        inputs[LABELS] = torch.empty((gan.real_batches, shape[0]), dtype=torch.int64)
        inputs |= {VALUE + place: torch.empty(()) for place in gan.scheduled.parts}
        return turns(planned, gan.inputs, inputs, (), gan.images_format)


def there(device: torch.device) -> There | None:
    """Return the memory of a GPU, or a job's part of it, or else of this machine; None where it cannot be read."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        if (jobs := jobs_sharing()) == 1:
            return There(name, total, free)
        part = memory_share(total, jobs)
        return There(f"this job's part of {name} (sweep.jobs_per_device={jobs})", part, min(free, part), jobs)
    found = host_memory()
    return None if found is None else There("this machine", *found)


def report(need: Need, memory: There | None, cfg: DictConfig, world_size: int, sharing: int = 1) -> str:
    """Return the line that says what a step needs and what there is.

    Args:
        memory: of the device; None: not known.
        world_size: the run's ranks.
        sharing: ranks that share this memory.

    Raises:
        RunFailed: a step needs more than the device has; the message says what to lower.
    """
    images = cfg.batch_size // world_size
    said = (
        f"memory: {gib(need.total)} for a step of {images} images (weights, gradients and optimizer "
        f"{gib(need.weights)}, activations {gib(need.activations)})"
    )
    if memory is None:
        return said
    wanted = need.total * sharing
    if sharing > 1:
        said += f", {gib(wanted)} for {sharing} processes"
    said += f"; {memory.name} has {gib(memory.free)} free of {gib(memory.total)}"
    choices = f"What lowers it: {', '.join(_choices(need, cfg, world_size))}"
    if memory.jobs > 1:
        choices += f"; sweep.jobs_per_device={memory.jobs // 2} gives each job a larger part"
    if wanted > memory.total and not cfg.compile:
        raise RunFailed(f"{said}: it cannot fit. {choices}", kind=OUT_OF_MEMORY)
    return f"{said}: it may not fit. {choices}" if wanted > TIGHT * memory.free else said


def _choices(need: Need, cfg: DictConfig, world_size: int) -> list[str]:
    """Return what lowers the memory of a step, that which helps most first."""
    share = cfg.batch_size // world_size
    parts = next((parts for parts in range(2, share + 1) if share % parts == 0), None)
    smaller = [f"batch_size={cfg.batch_size // parts} accumulate={cfg.accumulate * parts}"] if parts else []
    given = [(name, cfg.model[name].get("width")) for name in ("generator", "discriminator")]
    widths = [f"model.{name}.width={width // 2}" for name, width in given if width and width > 1]
    networks = [" ".join(widths)] if widths else ["model/network=dcgan"]
    order = networks + smaller if need.weights > need.activations else smaller + networks
    return [*order, "a smaller data.image_size"]
