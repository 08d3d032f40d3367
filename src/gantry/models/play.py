"""What the terms of an objective see of a turn: the images of both kinds, and what the networks make of them."""

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gantry.data.images import to_float
from gantry.models.ema import AveragedGenerator
from gantry.models.networks.blocks import Output
from gantry.models.networks.latent_map import LatentMap
from gantry.models.schedules import settled

NOTHING: frozenset[str] = frozenset()
LEVELS = "within a grey level"  # the draw that dequantises real images
MIXING = "of the generator: "  # begins the name of a draw that the generator takes beside its latents
ENCODING = "of the encoder: "  # begins the name of a draw that the generator's encoder takes beside real images
BEFORE = "before"  # a view's `differentiate`: penalties take the gradient at the image before the view


class Ranks(Protocol):
    """The ranks that share a batch; every rank calls each method equally often."""

    @property
    def count(self) -> int: ...

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the ranks, without a gradient."""

    def gather(self, value: Tensor) -> Tensor:
        """Return the tensors (B, ...) of all ranks, one after the other, with gradients to each of floats."""


@dataclass(frozen=True)
class Alone:
    """The `Ranks` of a single process."""

    count: int = 1

    def mean(self, value: Tensor) -> Tensor:
        return value.detach()

    def gather(self, value: Tensor) -> Tensor:
        return value


class Batch(NamedTuple):
    """Images (B, C, H, W) in [-1, 1], real or generated, and what goes with them, None where the networks take none.

    Labels are int64 (B,), in [0, n_classes). Codes are (B, z_dim): of real images the encoder's, of generated ones
    those that they were made from.
    """

    images: Tensor
    labels: Tensor | None = None
    codes: Tensor | None = None


class View(Protocol):
    """What the discriminator sees of images: an augmentation of real and generated ones alike.

    Attributes:
        width: uniform numbers that an image needs.
        differentiate: where penalties on the gradient of D take it: at the image "before" the view, through which it
            passes, or at the image "after" it.
    """

    @property
    def width(self) -> int: ...
    @property
    def differentiate(self) -> str: ...

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Return images (B, C, H, W) of images (B, C, H, W) in [-1, 1] and numbers (B, width) in [0, 1)."""


@dataclass(frozen=True)
class Players:
    """The networks of a GAN.

    Attributes:
        generator, discriminator: the networks themselves.
        averaged: the moving average of the generator.
        generate, discriminate: their forward passes, compiled or as they are.
        takes: by player, the names of what its forward pass takes beside latents or images: "labels", "draws",
            "codes".
        view: of the images that the discriminator is shown; None: the images as they are.
        latents: the named parts of the generator's latents; None: they have none.
        reals: from real images in [-1, 1] and the scheduled numbers to those of the present level of detail; None: the
            networks do not grow.
        code, encode: of a generator with an encoder (`gantry.models.inference`): the codes of latents and of images.
        draws_to_encode: whether the encoder takes draws.
    """

    generator: nn.Module
    discriminator: nn.Module
    averaged: AveragedGenerator
    generate: Callable[..., Tensor]
    discriminate: Callable[..., Tensor | Output]
    takes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    view: View | None = None
    latents: LatentMap | None = None
    reals: Callable[[Tensor, Mapping[str, Tensor]], Tensor] | None = None
    code: Callable[[Tensor], Tensor] | None = None
    encode: Callable[..., Tensor] | None = None
    draws_to_encode: bool = False

    def further(self, player: str, **values: Any) -> dict[str, Any]:
        """Return those of the values that a player's forward pass takes."""
        return {name: value for name, value in values.items() if name in self.takes.get(player, NOTHING)}


@dataclass(frozen=True)
class Play:
    """The inputs of a term: the images of a turn and the discriminator's outputs for them.

    Attributes:
        player: "generator" or "discriminator", whose turn it is.
        shown: real images, uint8 (B, C, H, W).
        labels: of the real images, int64 (B,); None where no network takes labels.
        z: latents of the generated images (B, z_dim).
        fake_labels: of the generated images.
        players: the networks.
        draws: this turn's uniform numbers in [0, 1), (B,) or (B, width), by purpose.
        values: scheduled numbers at this step, by their place in the config.
        ranks: those that share the batch.
        outputs: the discriminator's outputs for "real" and "fake", those that a term of this turn needs.
    """

    player: str
    shown: Tensor
    labels: Tensor | None
    z: Tensor
    fake_labels: Tensor | None
    players: Players
    draws: Mapping[str, Tensor]
    values: Mapping[str, Tensor] = field(default_factory=dict)
    ranks: Ranks = Alone()
    outputs: dict[str, Output] = field(default_factory=dict)
    _viewed: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def real(self) -> Batch:
        """The real images in [-1, 1], converted at first use.

        They are spread over their grey levels where that is drawn, and have the level of detail of networks that grow.
        """
        if LEVELS in self.draws:
            images = (self.shown + self.draws[LEVELS].view(self.shown.shape)) / 128 - 1
        else:
            images = to_float(self.shown)
        if self.players.reals is not None:
            images = self.players.reals(images, self.values)
        return Batch(images, self.labels, self.encode(images) if self.judges_codes else None)

    @cached_property
    def fake(self) -> Batch:
        """The generated images, made at first use; in the discriminator's turn without a gradient."""
        with nullcontext() if self.player == "generator" else torch.no_grad():
            images = self.generate(self.z, self.fake_labels)
        return Batch(images, self.fake_labels, self.code(self.z))

    @property
    def network(self) -> nn.Module:
        """The network of the player whose turn it is."""
        network: nn.Module = getattr(self.players, self.player)
        return network

    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images (B, C, H, W) of latents and labels, with this turn's draws where the generator takes some."""
        names = [name for name in self.draws if name.startswith(MIXING)]
        drawn = {name.removeprefix(MIXING): self.draws[name] for name in names}
        return self.players.generate(z, **self.players.further("generator", labels=labels, draws=drawn))

    @property
    def judges_codes(self) -> bool:
        """Whether the discriminator takes codes."""
        return "codes" in self.players.takes.get("discriminator", NOTHING)

    def code(self, z: Tensor) -> Tensor | None:
        """Return the codes (B, z_dim) of latents, which the discriminator judges; None where it judges none."""
        if not self.judges_codes:
            return None
        assert self.players.code is not None
        return self.players.code(z)

    def encode(self, images: Tensor) -> Tensor:
        """Return the encoder's codes (B, z_dim) of images; in the discriminator's turn without a gradient."""
        assert self.players.encode is not None
        names = [name for name in self.draws if name.startswith(ENCODING)]
        drawn = {name.removeprefix(ENCODING): self.draws[name] for name in names}
        with nullcontext() if self.player == "generator" else torch.no_grad():
            return self.players.encode(images, **({"draws": drawn} if self.players.draws_to_encode else {}))

    def discriminate(self, images: Tensor, labels: Tensor | None = None, codes: Tensor | None = None) -> Output:
        """Return the discriminator's outputs for images as they are, in float32."""
        further = self.players.further("discriminator", labels=labels, codes=codes)
        return as_output(self.players.discriminate(images, **further))

    def viewed(self, name: str) -> Tensor:
        """Return the "real" or "fake" images as the discriminator is shown them."""
        if self.players.view is None:
            return self._batch(name).images
        if name not in self._viewed:
            self._viewed[name] = self.view(name, self._batch(name).images)
        return self._viewed[name]

    def view(self, name: str, images: Tensor) -> Tensor:
        """Apply the view to images in the place of the "real" or "fake" ones, with their draws."""
        if self.players.view is None:
            return images
        return settled(self.players.view, "augment", self.values)(images, self.draws[view_draw(name)])

    def critic(self, name: str) -> Callable[[Tensor], Tensor | Output]:
        """Return the discriminator as a function of images alone, in the place of the "real" or "fake" ones.

        It is the network itself unless images have labels or codes or are to be viewed first. It is never compiled,
        since a penalty differentiates it twice.
        """
        network, view = self.players.discriminator, self.players.view
        labels = self.labels if name == "real" else self.fake_labels
        codes = self._batch(name).codes if self.judges_codes else None
        further = self.players.further("discriminator", labels=labels, codes=codes)
        first = view is not None and view.differentiate == BEFORE
        if not further and not first:
            return network
        return lambda images: network(self.view(name, images) if first else images, **further)

    def differentiated(self, name: str) -> Tensor:
        """Return the "real" or "fake" images at which penalties take the gradient of `critic`."""
        view = self.players.view
        return self._batch(name).images if view is None or view.differentiate == BEFORE else self.viewed(name)

    def with_draws(self, draws: Mapping[str, Tensor]) -> "Play":
        """Return the same play, what is computed already included, with further draws."""
        other = copy.copy(self)
        vars(other)["draws"] = {**self.draws, **draws}
        return other

    def _batch(self, name: str) -> Batch:
        return self.real if name == "real" else self.fake


class Term(Protocol):
    """A scalar that a player minimises, as a function of a play.

    Attributes:
        name: under which it is recorded.
        player: the player that minimises it, "generator" or "discriminator".
        every: it is due at each `every`-th turn of its player, with `every` times the weight.
        apart: whether it is minimised in a step of its own, after that of the player's other terms.
        needs: the outputs of the discriminator that it reads, of "real" and "fake".
        draws: purposes for which it needs uniform numbers, and how many an image; 0: one, in a tensor (B,).
    """

    @property
    def name(self) -> str: ...
    @property
    def player(self) -> str: ...
    @property
    def every(self) -> int: ...
    @property
    def apart(self) -> bool: ...
    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def draws(self) -> Mapping[str, int]: ...

    def __call__(self, play: Play) -> Tensor: ...


def view_draw(name: str) -> str:
    """Return the purpose of the numbers of the view of "real" or "fake" images."""
    return f"view of {name}"


def as_output(made: Tensor | Output) -> Output:
    """Return what a discriminator returned as an `Output` in float32; a tensor is its logits."""
    if isinstance(made, Tensor):
        return Output(made.float())
    features = None if made.features is None else made.features.float()
    return Output(made.logits.float(), features, {name: head.float() for name, head in made.heads.items()})


def logits_of(made: Tensor | Output) -> Tensor:
    """Return the logits (B,) of what a discriminator returned."""
    return made if isinstance(made, Tensor) else made.logits
