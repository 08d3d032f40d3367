"""Builds the objective: wraps losses and penalties, which users write as plain functions, as terms on a play."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from gantry.models.losses import Loss, compares_the_batch, seen_by_generator
from gantry.models.penalties import Penalty
from gantry.models.play import Play, Term
from gantry.models.schedules import Schedule, settled
from gantry.models.terms import PlayersTerm
from gantry.models.top_k import keep_highest

TOP_K = "top_k"  # the place of the share in the config


@dataclass(frozen=True)
class Adversarial:
    """The term of one player of a loss, a function of the logits of real and of generated images."""

    loss: Loss
    player: str
    needs: frozenset[str]
    top_k: float | Schedule | None = None  # of the generator: the share of its images that counts
    every: ClassVar[int] = 1
    apart: ClassVar[bool] = False
    draws: ClassVar[Mapping[str, int]] = MappingProxyType({})

    @property
    def name(self) -> str:
        """As in `loss/generator`."""
        return f"loss/{self.player}"

    def __call__(self, play: Play) -> Tensor:
        fake = play.outputs["fake"].logits
        if self.top_k is not None:
            share = self.top_k if isinstance(self.top_k, int | float) else play.values[TOP_K]
            fake = keep_highest(fake, share, play.ranks.gather)
        # A loss takes two arguments; where this player's loss does not depend on the real logits, any tensor is valid.
        real = play.outputs["real"].logits if "real" in self.needs else fake.detach()
        if compares_the_batch(self.loss):
            real, fake = play.ranks.gather(real), play.ranks.gather(fake)
        value: Tensor = getattr(self.loss(real, fake), self.player)
        return value


@dataclass(frozen=True)
class Penalising:
    """Penalty number `index` of a GAN as a term of the discriminator's loss."""

    penalty: Penalty
    index: int
    player: ClassVar[str] = "discriminator"
    needs: ClassVar[frozenset[str]] = frozenset()  # it needs images, but none of their logits

    @property
    def name(self) -> str:
        """As in `penalty/0_R1`."""
        return f"penalty/{self.index}_{type(self.penalty).__name__}"

    @property
    def every(self) -> int:
        """The penalty's interval."""
        return self.penalty.every

    @property
    def apart(self) -> bool:
        """Whether the penalty has a step of its own."""
        return getattr(self.penalty, "own_step", False)

    @property
    def draws(self) -> Mapping[str, int]:
        """One purpose, named after the penalty's number, for one number an image."""
        return {self._purpose: 0}

    @property
    def _purpose(self) -> str:
        return f"penalty {self.index}"

    def __call__(self, play: Play) -> Tensor:
        penalty = settled(self.penalty, f"penalties.{self.index}", play.values)
        at = getattr(penalty, "at", "real")  # the images whose labels and view go with those it makes
        real = play.differentiated("real")
        # One at real images needs no fakes, which then are not generated in a turn of its own.
        fake = real if getattr(penalty, "reals_alone", False) else play.differentiated("fake")
        return penalty(play.critic(at), real, fake, play.draws[self._purpose])


@dataclass(frozen=True)
class Further:
    """Term number `index` of a GAN's `terms` in one player's turn (`gantry.models.terms`)."""

    term: PlayersTerm
    index: int
    player: str

    @property
    def name(self) -> str:
        """As in `term/0_AuxiliaryClassifier/generator`."""
        return f"term/{self.index}_{type(self.term).__name__}/{self.player}"

    @property
    def every(self) -> int:
        """The term's interval."""
        return self.term.every

    @property
    def apart(self) -> bool:
        """False: it is minimised with the loss."""
        return False

    @property
    def needs(self) -> frozenset[str]:
        """The outputs of the discriminator that the term reads in a turn of this player."""
        return self.term.needs_of(self.player)

    @property
    def draws(self) -> Mapping[str, int]:
        """The term's own purposes, named after its number."""
        return {f"term {self.index} {purpose}": width for purpose, width in self.term.draws.items()}

    def __call__(self, play: Play) -> Tensor:
        term = settled(self.term, f"terms.{self.index}", play.values)
        own = {purpose: play.draws[f"term {self.index} {purpose}"] for purpose in self.term.draws}
        return term(play.with_draws(own))


def objective(
    loss: Loss,
    penalties: Sequence[Penalty],
    terms: Sequence[PlayersTerm] = (),
    top_k: float | Schedule | None = None,
) -> tuple[Term, ...]:
    """Return the terms of both players.

    Args:
        top_k: the share of its images from which the generator learns (`gantry.models.top_k`); None: all.
    """
    further = {
        player: [Further(term, index, player) for index, term in enumerate(terms) if player in term.players]
        for player in ("discriminator", "generator")
    }
    return (
        Adversarial(loss, "discriminator", frozenset({"real", "fake"})),
        *(Penalising(penalty, index) for index, penalty in enumerate(penalties)),
        *further["discriminator"],
        Adversarial(loss, "generator", seen_by_generator(loss), top_k),
        *further["generator"],
    )
