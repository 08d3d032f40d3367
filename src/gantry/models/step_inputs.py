"""Plans the turns of a generator step, draws its random inputs, and makes turns of inputs on the device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gantry.core.randomness import draws
from gantry.models.labels import LabelDraw, from_uniform
from gantry.models.play import ENCODING, LEVELS, MIXING, Term, view_draw
from gantry.models.step import PLAYERS, Turn, due

IMAGES, NOISE, SHARE, LABELS = "images", "noise", "share", "labels"
FAKE_LABELS = "fake labels"
VALUE = "value "  # begins the name of a scheduled number among a step's inputs
LATENT = -1  # a draw's width: as many numbers an image as its latent has
PIXELS = -2  # a draw's width: as many numbers an image as a real image has values
AHEAD = 2**17  # largest number of values drawn ahead of time: half a MiB
Player = Literal["discriminator", "generator"]
First = Literal["discriminator", "generator", "together"]


@dataclass(frozen=True)
class Order:
    """The order of a step's turns, and the batches that they take.

    Attributes:
        n_critic: turns of the discriminator.
        first: the player whose turn comes first; "together": both turns are on one batch and the same draws, and the
            gradients of both are computed before either player moves.
        generator_batches: images of the generator's turn, in batches.
        generator_reals: the real images of the generator's turn: those of the "last" turn of the discriminator (where
            the generator moves first, of its first one), or the "next", which no other turn takes.
    """

    n_critic: int = 1
    first: First = "discriminator"
    generator_batches: int = 1
    generator_reals: Literal["last", "next"] = "last"

    @property
    def real_batches(self) -> int:
        """Batches of real images that a step takes."""
        return self.n_critic + (self.generator_reals == "next")

    @property
    def generators_batch(self) -> int:
        """The number of the generator's batch among those of a step."""
        if self.generator_reals == "next":
            return self.n_critic
        return self.n_critic - 1 if self.first == "discriminator" else 0


@dataclass(frozen=True)
class Drawn:
    """A random input of a turn.

    Attributes:
        stream: the purpose of the draw in the run.
        kind: "normal"; "uniform", in [0, 1); or "labels".
        width: values an image; 0: one, in a tensor (B,).
        batches: how many batches the images make.
    """

    stream: str
    kind: Literal["normal", "uniform", "labels"]
    width: int
    batches: int = 1

    def shape(self, images: int) -> tuple[int, ...]:
        """Return the shape of the values for a batch of so many images."""
        return (self.batches * images, *([self.width] if self.width else []))

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return torch.int64 if self.kind == "labels" else torch.float32


@dataclass(frozen=True)
class Inputs:
    """What turns take beside images and what their terms draw.

    Attributes:
        z_dim: length of a latent.
        mixing: purposes for which the generator takes uniform numbers, and how many an image.
        view: uniform numbers that the discriminator's view takes an image; 0: none.
        labels: by player, how the labels of its generated images are drawn; empty: no network takes labels.
        pixels: values of a real image, C * H * W.
        dequantise: whether each of them is spread over its grey level.
        encoding: purposes for which the generator's encoder takes uniform numbers, and how many a real image.
    """

    z_dim: int
    mixing: Mapping[str, int] = field(default_factory=dict)
    view: int = 0
    labels: Mapping[str, LabelDraw] = field(default_factory=dict)
    pixels: int = 0
    dequantise: bool = False
    encoding: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A turn of a step before its inputs are known.

    Attributes:
        player: "generator" or "discriminator".
        index: number of this turn of the player in the run, counted from 0.
        terms: those that are due.
        watched: whether the norm of the player's gradient is recorded.
        batch: number of its real batch among those of the step.
        samples: images of the turn, in batches.
        apart: whether it follows another turn of the player with terms that are minimised in a step of their own.
        together: whether it is on the inputs of the other turns that are, and its player moves at once with theirs.
    """

    player: str
    index: int
    terms: Sequence[Term]
    watched: bool
    batch: int = 0
    samples: int = 1
    apart: bool = False
    together: bool = False

    @property
    def drawn_by(self) -> str:
        """The player whose inputs the turn takes: one for all turns that are together."""
        return "generator" if self.together else self.player

    @property
    def kind(self) -> tuple[Any, ...]:
        """What decides which computations the turn consists of."""
        return self.player, self.apart, tuple(term.name for term in self.terms), self.watched

    def key(self, purpose: str) -> str:
        """Return the name of an input of this turn among those of its step."""
        place = self.batch if self.drawn_by == "discriminator" else "G"
        return f"{place}{' apart' if self.apart else ''} {purpose}"

    def drawn(self, inputs: Inputs) -> dict[str, Drawn]:
        """Return the random inputs of the turn by their purpose in it, the noise first."""
        more = " apart" if self.apart else ""
        own = f"{self.drawn_by}{more}"
        result = {NOISE: Drawn(f"{own} noise", "normal", inputs.z_dim, self.samples)}
        if inputs.labels and inputs.labels[self.drawn_by] != "paired":
            result[FAKE_LABELS] = Drawn(f"{own} labels", "labels", 0, self.samples)
        for purpose, width in inputs.mixing.items():
            # A network may name a purpose as the house does, such as "noise", whose stream is that of the latents.
            result[MIXING + purpose] = Drawn(f"{own} network's {purpose}", "uniform", width, self.samples)
        for purpose, width in inputs.encoding.items():
            result[ENCODING + purpose] = Drawn(f"{own} encoder's {purpose}", "uniform", width)
        if inputs.dequantise:
            result[LEVELS] = Drawn(f"{self.drawn_by} {LEVELS}", "uniform", inputs.pixels)
        if inputs.view:
            for name in ("real", "fake"):
                samples = self.samples if name == "fake" else 1
                # Apart from a turn, the same images are seen in the same way.
                result[view_draw(name)] = Drawn(f"{self.drawn_by} view of {name}", "uniform", inputs.view, samples)
        for term in self.terms:
            for purpose, width in term.draws.items():
                of = "" if purpose.startswith("penalty") else f"{self.drawn_by} "
                values = {LATENT: inputs.z_dim, PIXELS: inputs.pixels}.get(width, width)
                samples = 1 if width == PIXELS else self.samples
                result[purpose] = Drawn(f"{of}{purpose}", "uniform", values, samples)
        return result


def plan(
    terms: Sequence[Term],
    index: int,
    order: Order,
    watched: Callable[[str], bool] = lambda player: False,
    everything: bool = False,
) -> list[Planned]:
    """Return the turns of generator step number `index`, in the order in which they are taken.

    Args:
        terms: of both players.
        index: counted from 0.
        order: of the turns.
        watched: whether the norm of a player's gradient is recorded in this step.
        everything: as if every term were due.
    """
    asked = {player: watched(player) for player in PLAYERS}
    critic: list[Planned] = []
    for number in range(order.n_critic):
        turn = index * order.n_critic + number
        for apart in (False, True):
            if wanted := due(terms, "discriminator", 0 if everything else turn, apart):
                together = order.first == "together" and not apart
                due_now = Planned("discriminator", turn, wanted, asked["discriminator"], number, 1, apart, together)
                critic.append(due_now)
    wanted = due(terms, "generator", 0 if everything else index)
    of_generator = Planned(
        *("generator", index, wanted, asked["generator"], order.generators_batch, order.generator_batches),
        together=order.first == "together",
    )
    return [of_generator, *critic] if order.first == "generator" else [*critic, of_generator]


def turns(
    planned: Sequence[Planned],
    needed: Inputs,
    inputs: Mapping[str, Tensor],
    constraints: Sequence[Callable[[nn.Module], None]],
    memory_format: torch.memory_format,
) -> list[Turn]:
    """Return the turns of a step.

    Args:
        planned: the step's.
        needed: what they take.
        inputs: on the device: `images`, uint8 (batches, B, C, H, W), `labels`, int64 (batches, B), what is drawn, under
            `Planned.key`, and scheduled numbers under `VALUE` and their place.
        constraints: of the discriminator.
        memory_format: of the images of a batch.
    """
    shown = [batch.contiguous(memory_format=memory_format) for batch in inputs[IMAGES]]
    values = {name.removeprefix(VALUE): value for name, value in inputs.items() if name.startswith(VALUE)}
    made = []
    for turn in planned:
        drawn = {purpose: inputs[turn.key(purpose)] for purpose in turn.drawn(needed)}
        z = drawn.pop(NOISE)
        labels = inputs[LABELS][turn.batch] if needed.labels else None
        made.append(
            Turn(
                *(turn.player, turn.terms, shown[turn.batch], z),
                fake_labels=drawn.pop(FAKE_LABELS, labels),
                labels=labels,
                draws=drawn,
                after=constraints if turn.player == "discriminator" else (),
                watched=turn.watched,
                values=values,
                apart=turn.apart,
                together=turn.together,
            )
        )
    return made


@dataclass
class Draws:
    """The random inputs of a run's steps as functions of (seed, step, purpose), on the CPU.

    Args:
        seed: of the run.
        batch_size: images of a step over all ranks.
        shares: by player, the probability of each class among its generated images.
    """

    seed: int
    batch_size: int
    shares: Mapping[str, Sequence[float]] = field(default_factory=dict)
    _ahead: dict[tuple[str, int], Tensor] = field(default_factory=dict)  # latents of all ranks, by purpose and index

    def latents(self, index: int, purpose: str, z_dim: int, batches: int = 1) -> Tensor:
        """Return standard normal values (batches * batch_size, z_dim) of draw number `index`.

        Those of the next indices are drawn in the same call, in a third of the time: between two steps the code and the
        tables of a draw are evicted from the processor's cache.
        """
        if (purpose, index) not in self._ahead:
            count = batches * self.batch_size
            self._ahead = {key: latents for key, latents in self._ahead.items() if key[0] != purpose}
            for later in range(index, index + max(1, AHEAD // (count * z_dim))):
                values = draws(self.seed, later, purpose).standard_normal((count, z_dim), dtype="float32")
                self._ahead[purpose, later] = torch.from_numpy(values)
        return self._ahead.pop((purpose, index))

    def uniform(self, index: int, purpose: str, width: int = 0, batches: int = 1) -> Tensor:
        """Return uniform numbers in [0, 1), (batches * batch_size, width) of draw number `index`; width 0: one axis."""
        shape = (batches * self.batch_size, *([width] if width else []))
        return torch.from_numpy(draws(self.seed, index, purpose).random(shape, dtype="float32"))

    def labels(self, index: int, purpose: str, player: str, batches: int = 1) -> Tensor:
        """Return labels of a player's generated images, int64 (batches * batch_size,), of draw number `index`."""
        uniform = draws(self.seed, index, purpose).random(batches * self.batch_size)
        return torch.from_numpy(from_uniform(uniform, self.shares[player]))
