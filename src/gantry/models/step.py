"""Computes one training step of a GAN from tensors alone.

It does not use Lightning and does not synchronise with the device. Everything that changes between steps is an argument
(images, noise, uniform numbers, which terms are due, the share of the average), so that a plain loop, Lightning and a
captured CUDA graph can call the same function.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import add
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.nn.utils.parametrize import cached
from torch.optim import Optimizer

from gantry.data.images import to_float
from gantry.models.ema import AveragedGenerator

Record = dict[str, Tensor]
PLAYERS = ("generator", "discriminator")
GRADIENT = "gradient/"  # begins the name of a gradient's norm in a record


class Batch(NamedTuple):
    """Images (B, C, H, W) in [-1, 1], real or generated."""

    images: Tensor


class Outputs(NamedTuple):
    """The discriminator's outputs for a batch: logits (B,), float32."""

    logits: Tensor


@dataclass(frozen=True)
class Play:
    """The inputs of a term: the images of a turn and the discriminator's outputs for them.

    Attributes:
        shown: real images, uint8 (B, C, H, W).
        fake: generated images; detached in the discriminator's turn.
        outputs: the discriminator's outputs for "real" and "fake", those that a term of this turn needs.
        discriminator: the network itself, for terms that call it again.
        draws: this turn's uniform numbers in [0, 1), (B,) for each purpose.
    """

    shown: Tensor
    fake: Batch
    discriminator: nn.Module
    draws: Mapping[str, Tensor]
    outputs: dict[str, Outputs] = field(default_factory=dict)

    @cached_property
    def real(self) -> Batch:
        """The real images in [-1, 1], converted at first use."""
        return Batch(to_float(self.shown))


class Term(Protocol):
    """A scalar that a player minimises, as a function of a play.

    Attributes:
        name: under which it is recorded.
        player: the player that minimises it, "generator" or "discriminator".
        every: it is due at each `every`-th turn of its player, with `every` times the weight.
        needs: the outputs of the discriminator that it reads, of "real" and "fake".
        draws: purposes for which it needs uniform numbers, one an image.
    """

    @property
    def name(self) -> str: ...
    @property
    def player(self) -> str: ...
    @property
    def every(self) -> int: ...
    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def draws(self) -> tuple[str, ...]: ...

    def __call__(self, play: Play) -> Tensor: ...


@dataclass(frozen=True)
class Players:
    """The networks of a GAN.

    Attributes:
        generator, discriminator: the networks themselves.
        averaged: the moving average of the generator.
        generate, discriminate: their forward passes, compiled or as they are.
    """

    generator: nn.Module
    discriminator: nn.Module
    averaged: AveragedGenerator
    generate: Callable[[Tensor], Tensor]
    discriminate: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Turn:
    """One optimizer step: the player that is updated, the terms it minimises, and the batch.

    Attributes:
        player: "generator" or "discriminator".
        terms: the terms that are due, at least one.
        images: real images, uint8 (B, C, H, W), in the discriminator's memory format.
        z: latents (B, z_dim).
        draws: uniform numbers (B,), by purpose.
        after: called with the player's network after its update.
        watched: whether the norm of the player's gradient is recorded.
    """

    player: str
    terms: Sequence[Term]
    images: Tensor
    z: Tensor
    draws: Mapping[str, Tensor]
    after: Sequence[Callable[[nn.Module], None]] = ()
    watched: bool = False

    def parts(self, count: int) -> Iterator["Turn"]:
        """Split the turn into `count` equal parts.

        Raises:
            RuntimeError: `count` does not divide the batch.
        """
        if count == 1:
            yield self
            return
        images, z, *drawn = (v.unflatten(0, (count, -1)) for v in (self.images, self.z, *self.draws.values()))
        for part in zip(images, z, *drawn, strict=True):
            draws = dict(zip(self.draws, part[2:], strict=True))
            yield replace(self, images=part[0], z=part[1], draws=draws)


class Engine(Protocol):
    """Computes gradients and updates weights; handles precision, loss scaling and ranks."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to the weights' gradients."""

    def no_sync(self) -> AbstractContextManager[None]:
        """Return a context in which gradients are not exchanged between ranks."""

    def gradient_norm(self, optimizer: Optimizer) -> Tensor:
        """Return the norm of the gradient of an optimizer's weights, unscaled and before clipping."""

    def update(self, optimizer: Optimizer) -> None:
        """Update the weights."""


@dataclass(frozen=True)
class Plain:
    """An `Engine` of plain PyTorch on one device.

    Args:
        max_grad_norm: largest norm of a network's gradient; None: no clipping.
    """

    max_grad_norm: float | None = None

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to the weights' gradients."""
        loss.backward()

    def no_sync(self) -> AbstractContextManager[None]:
        """Return an empty context, since one device exchanges nothing."""
        return nullcontext()

    def gradient_norm(self, optimizer: Optimizer) -> Tensor:
        """Return the norm of the gradient of an optimizer's weights."""
        return gradient_norm(optimizer)

    def update(self, optimizer: Optimizer) -> None:
        """Clip the gradient and update the weights."""
        if self.max_grad_norm is not None:
            clip_grad_norm_(weights_of(optimizer), self.max_grad_norm)
        optimizer.step()


def step(
    players: Players,
    turns: Iterable[Turn],
    optimizers: Mapping[str, Optimizer],
    share: float | Tensor,
    engine: Engine | None = None,
    accumulate: int = 1,
) -> Record:
    """Run one generator step: the turns one after the other, then the update of the average.

    A turn splits its batch into `accumulate` parts, runs a backward pass for each, and updates its player by their
    mean gradient; the weights of the other player take no gradient.

    Args:
        turns: `n_critic` of the discriminator, then one of the generator.
        optimizers: by player.
        share: of the new weights in the average (`AveragedGenerator.share`).
        engine: computes gradients and updates; None: `Plain`.

    Returns:
        Detached scalars, each the mean over the parts of the last turn that has it: the terms by their names, the
        discriminator's mean outputs `score/real` and `score/fake`, and for a watched player `GRADIENT` and its name,
        the norm of its gradient before clipping.
    """
    engine = engine or Plain()
    record: Record = {}
    for turn in turns:
        optimizer = optimizers[turn.player]
        others = [weight for other in optimizers.values() if other is not optimizer for weight in weights_of(other)]
        optimizer.zero_grad()
        records: list[Record] = []
        with frozen(others):
            for part in turn.parts(accumulate):
                with cached():  # the weights do not change here, so parametrizations are computed once
                    loss, values = minimised(part, players)
                records.append({name: value.detach() for name, value in values.items()})
                # Exchange the sum over the parts between ranks, once.
                with nullcontext() if len(records) == accumulate else engine.no_sync():
                    engine.backward(loss / accumulate)
        norm = {f"{GRADIENT}{turn.player}": engine.gradient_norm(optimizer)} if turn.watched else {}
        engine.update(optimizer)
        for constraint in turn.after:
            constraint(getattr(players, turn.player))
        record |= (records[0] if accumulate == 1 else _mean(records)) | norm
    players.averaged.update(players.generator, share)
    return record


def minimised(turn: Turn, players: Players) -> tuple[Tensor, Record]:
    """Return the scalar that the player of a turn minimises, and the values to record."""
    play = played(turn, players)
    values = {term.name: term(play) for term in turn.terms}
    pairs = zip(turn.terms, values.values(), strict=True)
    loss = reduce(add, (value if term.every == 1 else term.every * value for term, value in pairs))
    if turn.player == "discriminator":
        values |= {f"score/{name}": outputs.logits.detach().mean() for name, outputs in play.outputs.items()}
    return loss, values


def played(turn: Turn, players: Players) -> Play:
    """Generate images, and run the discriminator on those batches whose outputs the terms of the turn need.

    The order of the batches is fixed, since BatchNorm's running statistics and rounding depend on it.
    """
    generating = turn.player == "generator"
    with nullcontext() if generating else torch.no_grad():
        fake = Batch(players.generate(turn.z))
    play = Play(turn.images, fake, players.discriminator, turn.draws)
    needs = frozenset[str]().union(*(term.needs for term in turn.terms))
    for name in ("fake", "real") if generating else ("real", "fake"):
        if name in needs:
            batch = fake if name == "fake" else play.real
            play.outputs[name] = Outputs(players.discriminate(batch.images).float())
    return play


def due(terms: Iterable[Term], player: str, turn: int) -> list[Term]:
    """Return the terms that a player minimises in turn number `turn`, counted from 0."""
    return [term for term in terms if term.player == player and turn % term.every == 0]


@contextmanager
def frozen(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within this context, turn off `requires_grad` of these weights, and restore it afterwards."""
    taking = [weight for weight in weights if weight.requires_grad]
    for weight in taking:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in taking:
            weight.requires_grad_(True)


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Return the norm of the gradient of all weights that an optimizer updates."""
    return get_total_norm([weight.grad for weight in weights_of(optimizer) if weight.grad is not None])


def weights_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the weights that an optimizer updates."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _mean(records: list[Record]) -> Record:
    return {name: torch.stack([record[name] for record in records]).mean() for name in records[0]}
