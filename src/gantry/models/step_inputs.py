"""Plans the turns of a generator step, draws its random inputs, and makes turns of inputs on the device."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gantry.core.randomness import draws
from gantry.models.step import PLAYERS, Term, Turn, due

IMAGES, NOISE, SHARE = "images", "noise", "share"
AHEAD = 2**17  # largest number of values drawn ahead of time: half a MiB


@dataclass(frozen=True)
class Planned:
    """A turn of a step before its inputs are known.

    Attributes:
        player: "generator" or "discriminator".
        index: number of this turn of the player in the run, counted from 0.
        terms: those that are due.
        watched: whether the norm of the player's gradient is recorded.
    """

    player: str
    index: int
    terms: Sequence[Term]
    watched: bool

    @property
    def kind(self) -> tuple[Any, ...]:
        """What decides which computations the turn consists of."""
        return self.player, tuple(term.name for term in self.terms), self.watched

    def names(self, number: int, terms: Iterable[Term]) -> list[str]:
        """Return the names of the inputs of turn `number` of a step, the noise first, then what `terms` draw."""
        return [f"{number} {purpose}" for purpose in (NOISE, *(purpose for term in terms for purpose in term.draws))]


def plan(
    terms: Sequence[Term], index: int, n_critic: int, watched: Callable[[str], bool] = lambda player: False
) -> list[Planned]:
    """Return the turns of generator step number `index`: `n_critic` of the discriminator, then one of the generator.

    Args:
        terms: of both players.
        index: counted from 0.
        n_critic: discriminator steps in one generator step.
        watched: whether the norm of a player's gradient is recorded in this step.
    """
    order = [("discriminator", index * n_critic + number) for number in range(n_critic)] + [("generator", index)]
    asked = {player: watched(player) for player in PLAYERS}
    return [Planned(player, turn, due(terms, player, turn), asked[player]) for player, turn in order]


def turns(
    planned: Sequence[Planned],
    inputs: Mapping[str, Tensor],
    constraints: Sequence[Callable[[nn.Module], None]],
    memory_format: torch.memory_format,
) -> list[Turn]:
    """Return the turns of a step.

    Args:
        planned: the step's.
        inputs: on the device: `images`, uint8 (n_critic, B, C, H, W), of which the generator's turn is shown the last
            batch, and what `Draws` draws, under `Planned.names`.
        constraints: of the discriminator.
        memory_format: of the images of a batch.
    """
    shown = [batch.contiguous(memory_format=memory_format) for batch in inputs[IMAGES]]
    made = []
    for number, turn in enumerate(planned):
        z, *uniform = (inputs[name] for name in turn.names(number, turn.terms))
        purposes = [purpose for term in turn.terms for purpose in term.draws]
        after = constraints if turn.player == "discriminator" else ()
        images = shown[min(number, len(shown) - 1)]
        made.append(
            Turn(turn.player, turn.terms, images, z, dict(zip(purposes, uniform, strict=True)), after, turn.watched)
        )
    return made


@dataclass
class Draws:
    """The random inputs of a run's steps as functions of (seed, step, purpose), on the CPU.

    Args:
        seed: of the run.
        batch_size: images of a step over all ranks.
    """

    seed: int
    batch_size: int
    _ahead: dict[tuple[str, int], Tensor] = field(default_factory=dict)  # latents of all ranks, by purpose and index

    def latents(self, index: int, purpose: str, z_dim: int) -> Tensor:
        """Return standard normal values (batch_size, z_dim) of draw number `index`.

        Those of the next indices are drawn in the same call, in a third of the time: between two steps the code and the
        tables of a draw are evicted from the processor's cache.
        """
        if (purpose, index) not in self._ahead:
            self._ahead = {key: latents for key, latents in self._ahead.items() if key[0] != purpose}
            for later in range(index, index + max(1, AHEAD // (self.batch_size * z_dim))):
                values = draws(self.seed, later, purpose).standard_normal((self.batch_size, z_dim), dtype="float32")
                self._ahead[purpose, later] = torch.from_numpy(values)
        return self._ahead.pop((purpose, index))

    def uniform(self, index: int, purpose: str) -> Tensor:
        """Return uniform numbers in [0, 1), (batch_size,), of draw number `index`."""
        return torch.from_numpy(draws(self.seed, index, purpose).random(self.batch_size, dtype="float32"))
