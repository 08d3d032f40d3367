"""Builds the objective: wraps losses and penalties, which users write as plain functions, as terms on a play."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gantry.models.losses import Loss, seen_by_generator
from gantry.models.penalties import Penalty
from gantry.models.step import Play, Term


@dataclass(frozen=True)
class Adversarial:
    """The term of one player of a loss, a function of the logits of real and of generated images."""

    loss: Loss
    player: str
    needs: frozenset[str]
    every: ClassVar[int] = 1
    draws: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """As in `loss/generator`."""
        return f"loss/{self.player}"

    def __call__(self, play: Play) -> Tensor:
        fake = play.outputs["fake"].logits
        # A loss takes two arguments; where this player's loss does not depend on the real logits, any tensor is valid.
        real = play.outputs["real"].logits if "real" in self.needs else fake.detach()
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
    def draws(self) -> tuple[str, ...]:
        """One purpose, named after the penalty's number."""
        return (f"penalty {self.index}",)

    def __call__(self, play: Play) -> Tensor:
        return self.penalty(play.discriminator, play.real.images, play.fake.images, play.draws[self.draws[0]])


def objective(loss: Loss, penalties: Sequence[Penalty]) -> tuple[Term, ...]:
    """Return the terms of both players."""
    return (
        Adversarial(loss, "discriminator", frozenset({"real", "fake"})),
        *(Penalising(penalty, index) for index, penalty in enumerate(penalties)),
        Adversarial(loss, "generator", seen_by_generator(loss)),
    )
