"""Computes one training step of a GAN from tensors alone.

It does not use Lightning and does not synchronise with the device. Everything that changes between steps is an argument
(images, noise, uniform numbers, which terms are due, the share of the average), so that a plain loop, Lightning and a
captured CUDA graph can call the same function.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import groupby
from operator import add
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.nn.utils.parametrize import cached
from torch.optim import Optimizer

from gantry.models.play import Alone, Play, Players, Ranks, Term
from gantry.models.without_autocast import without_autocast

Record = dict[str, Tensor]
PLAYERS = ("generator", "discriminator")
GRADIENT = "gradient/"  # begins the name of a gradient's norm in a record
SIGNS = "score/real_sign"  # the mean sign of the discriminator's output for real images, which a view may observe


@dataclass(frozen=True)
class Turn:
    """One optimizer step: the player that is updated, the terms it minimises, and the batch.

    Attributes:
        player: "generator" or "discriminator".
        terms: the terms that are due, at least one.
        images: real images, uint8 (B, C, H, W), in the discriminator's memory format.
        z: latents of the generated images, (B, z_dim), or of a multiple of B images.
        draws: uniform numbers by purpose, (B,) or (B, width).
        after: called with the player's network after its update.
        watched: whether the norm of the player's gradient is recorded.
        labels: of the real images, int64 (B,); None where no network takes labels.
        fake_labels: of the generated images, int64, as many as `z`.
        values: scheduled numbers, tensors (), by their place in the config.
        apart: whether the turn follows another of the same player, on the same real images, for terms that are
            minimised in a step of their own.
        together: whether the player moves at once with those of the turns beside it that are together too.
    """

    player: str
    terms: Sequence[Term]
    images: Tensor
    z: Tensor
    draws: Mapping[str, Tensor]
    after: Sequence[Callable[[nn.Module], None]] = ()
    watched: bool = False
    labels: Tensor | None = None
    fake_labels: Tensor | None = None
    values: Mapping[str, Tensor] = field(default_factory=dict)
    apart: bool = False
    together: bool = False

    def parts(self, count: int) -> Iterator["Turn"]:
        """Split the turn into `count` equal parts.

        Raises:
            RuntimeError: `count` does not divide the batch.
        """
        if count == 1:
            yield self
            return
        tensors = {"images": self.images, "z": self.z, "labels": self.labels, "fake_labels": self.fake_labels}
        split = {name: value.unflatten(0, (count, -1)) for name, value in tensors.items() if value is not None}
        drawn = {purpose: value.unflatten(0, (count, -1)) for purpose, value in self.draws.items()}
        for part in range(count):
            draws = {purpose: value[part] for purpose, value in drawn.items()}
            yield replace(self, draws=draws, **{name: value[part] for name, value in split.items()})


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

    def at_once(self) -> AbstractContextManager[None]:
        """Return a context for the updates of several optimizers whose gradients were computed before any of them."""

    def agree(self) -> None:
        """Bring the buffers that ranks have changed apart into agreement, after a step's last turn."""

    @property
    def ranks(self) -> Ranks:
        """The ranks that share a batch."""


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

    def at_once(self) -> AbstractContextManager[None]:
        """Return an empty context: an update depends on its own gradient alone."""
        return nullcontext()

    def agree(self) -> None:
        """Do nothing, since one device has nobody to agree with."""

    @property
    def ranks(self) -> Ranks:
        """This one."""
        return Alone()


def step(
    players: Players,
    turns: Iterable[Turn],
    optimizers: Mapping[str, Optimizer],
    share: float | Tensor,
    engine: Engine | None = None,
    accumulate: int = 1,
    at_every_pass: bool = False,
) -> Record:
    """Run one generator step: the turns one after the other, then the update of the average.

    Of turns that are together all gradients are computed before any player moves. A turn splits its batch into
    `accumulate` parts, runs a backward pass for each, and updates its player by their mean gradient; the weights of
    the other player take no gradient.

    Args:
        turns: in the order in which they are taken, those of the discriminator and one of the generator.
        optimizers: by player.
        share: of the new weights in the average (`AveragedGenerator.share`).
        engine: computes gradients and updates; None: `Plain`.
        at_every_pass: compute parametrizations such as spectral normalisation, which does a power iteration each time,
            at every forward pass; False: once in an objective.

    Returns:
        Detached scalars, each the mean over the parts of the last turn that has it: the terms by their names, the
        discriminator's mean outputs `score/real` and `score/fake`, for a watched player `GRADIENT` and its name,
        the norm of its gradient before clipping, and what the view logs.
    """
    engine = engine or Plain()
    record: Record = {}
    for group in _at_once(turns):
        taken = [_gradient(turn, players, optimizers, engine, accumulate, at_every_pass) for turn in group]
        with engine.at_once() if len(group) > 1 else nullcontext():
            for turn, values in zip(group, taken, strict=True):
                engine.update(optimizers[turn.player])
                for constraint in turn.after:
                    constraint(getattr(players, turn.player))
                if SIGNS in values:
                    signs, batch = engine.ranks.mean(values[SIGNS]), len(turn.images) * engine.ranks.count
                    players.view.observe(signs, batch)  # type: ignore[union-attr]
                record |= values
    engine.agree()
    players.averaged.update(players.generator, share)
    logged = getattr(players.view, "logged", None)
    return record if logged is None else record | logged()


def _at_once(turns: Iterable[Turn]) -> Iterator[list[Turn]]:
    """Yield the turns that follow each other together in one list, every other turn in a list of its own."""
    for together, following in groupby(turns, key=lambda turn: turn.together):
        group = list(following)
        yield from [group] if together else ([turn] for turn in group)


def _gradient(
    turn: Turn,
    players: Players,
    optimizers: Mapping[str, Optimizer],
    engine: Engine,
    accumulate: int,
    at_every_pass: bool,
) -> Record:
    """Compute the gradient of a turn's player, which has none of another turn in it, and return what is recorded."""
    optimizer = optimizers[turn.player]
    others = [weight for other in optimizers.values() if other is not optimizer for weight in weights_of(other)]
    optimizer.zero_grad()
    records: list[Record] = []
    with frozen(others):
        for part in turn.parts(accumulate):
            # The weights do not change here, so parametrizations need to be computed only once.
            with nullcontext() if at_every_pass else cached():
                loss, values = minimised(part, players, engine.ranks)
            records.append({name: value.detach() for name, value in values.items()})
            # Exchange the sum over the parts between ranks, once.
            with nullcontext() if len(records) == accumulate else engine.no_sync(), without_autocast(loss.device):
                engine.backward(loss / accumulate)
    norm = {f"{GRADIENT}{turn.player}": engine.gradient_norm(optimizer)} if turn.watched else {}
    return (records[0] if accumulate == 1 else _mean(records)) | norm


def minimised(turn: Turn, players: Players, ranks: Ranks) -> tuple[Tensor, Record]:
    """Return the scalar that the player of a turn minimises, and the values to record."""
    play = played(turn, players, ranks)
    values = {term.name: term(play) for term in turn.terms}
    pairs = zip(turn.terms, values.values(), strict=True)
    loss = reduce(add, (value if term.every == 1 else term.every * value for term, value in pairs))
    if turn.apart or players.reals is not None:
        # Weights that the terms do not reach, such as a last bias or layers of larger images, have a gradient of 0 and
        # not none, for which DistributedDataParallel would wait.
        loss = loss + 0.0 * reduce(add, (weight.sum() for weight in play.network.parameters() if weight.requires_grad))
    if turn.player == "discriminator":
        # So has a head that no term due reads: Adam's moments of its weights then do not depend on the ranks either.
        heads = [head for output in play.outputs.values() for head in output.heads.values()]
        loss = reduce(add, (0.0 * head.sum() for head in heads), loss)
        values |= {f"score/{name}": outputs.logits.detach().mean() for name, outputs in play.outputs.items()}
        if hasattr(players.view, "observe") and "real" in play.outputs:
            values[SIGNS] = play.outputs["real"].logits.detach().sign().mean()
    return loss, values


def played(turn: Turn, players: Players, ranks: Ranks) -> Play:
    """Generate images, and run the discriminator on those batches whose outputs the terms of the turn need.

    The order of the batches is fixed, since BatchNorm's running statistics and rounding depend on it.
    """
    play = Play(
        *(turn.player, turn.images, turn.labels, turn.z, turn.fake_labels, players, turn.draws, turn.values, ranks)
    )
    if not turn.apart:
        _ = play.fake  # generated first; the terms of a turn of its own may need no fakes
    needs = frozenset[str]().union(*(term.needs for term in turn.terms))
    for name in ("fake", "real") if turn.player == "generator" else ("real", "fake"):
        if name in needs:
            labels = turn.fake_labels if name == "fake" else turn.labels
            codes = getattr(play, name).codes if play.judges_codes else None
            play.outputs[name] = play.discriminate(play.viewed(name), labels, codes)
    return play


def due(terms: Iterable[Term], player: str, turn: int, apart: bool = False) -> list[Term]:
    """Return the terms that a player minimises in turn number `turn`, counted from 0, or apart from that turn."""
    return [term for term in terms if term.player == player and term.apart == apart and turn % term.every == 0]


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
