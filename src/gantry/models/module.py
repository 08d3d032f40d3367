"""The GAN as a LightningModule: prepares the tensors of a step and hands them to `gantry.models.step`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from gantry.models.check_parts import check_codes, check_discriminator, check_labels, check_order, check_view
from gantry.models.compilation import compiled
from gantry.models.ema import AveragedGenerator
from gantry.models.fixed_step import FixedStep
from gantry.models.growth import LOD, Grown, Growth
from gantry.models.inference import Inference, encoder_draws
from gantry.models.labels import Classes, LabelDraw, draws_by_player, taken_by
from gantry.models.lightning_engine import LightningEngine, count_step
from gantry.models.losses import Loss
from gantry.models.memory_format import channels_last, lay_out, lies_channels_last
from gantry.models.networks.latent_map import latent_map
from gantry.models.objective import TOP_K, objective
from gantry.models.optimizers import OptimizerFactory, capturable, check_clipping, fused, keep_capturable
from gantry.models.penalties import Constraint, Penalty
from gantry.models.play import Players, Term, View
from gantry.models.scheduled import OptimizerSchedules, Scheduled, own_step_interval, without_schedules
from gantry.models.schedules import Progress, Schedule
from gantry.models.static_inputs import Kind
from gantry.models.step import GRADIENT, PLAYERS, Engine, Plain, Record, step, weights_of
from gantry.models.step_inputs import SHARE, VALUE, Drawn, Draws, First, Inputs, Order, Planned, plan, turns
from gantry.models.terms import PlayersTerm


class GAN(LightningModule):
    """A generator and a discriminator trained in turns, composed of independent parts.

    One step is one generator step: `n_critic` discriminator steps, each on a new batch of real images, then
    one step of the generator, or before them, or at once with it, with `first`. `global_step` counts generator steps.

    A network that takes labels has `labels` among the arguments of its forward pass: int64 (B,), indices of classes.

    With `accumulate` each of these steps splits its batch into as many equal parts, runs them in turn and adds up their
    gradients: up to rounding the step of the whole batch, in the memory of one part. What compares the images of a
    batch compares those of a part: BatchNorm and StyleGAN2's and ProGAN's deviation (as over a rank's share), top-k and
    D2D-CE. And spectral normalisation does a power iteration at every part, LeCam an update of its averages.

    Args:
        generator: maps latents (B, z_dim) to images (B, C, H, W) in [-1, 1].
        discriminator: maps images to one logit each, (B,), with no sigmoid at its end.
        loss: a function of real and fake logits from `gantry.models.losses`, or one like them.
        optimizer: makes an optimizer of parameters; used for the discriminator too unless that has its own.
        z_dim: length of the latent vector, drawn from a standard normal distribution.
        seed: of every draw (`gantry.core.randomness`).
        batch_size: images of one step over all devices, in all its parts.
        penalties: terms added to the discriminator's loss.
        constraints: projections applied to the discriminator after each of its steps.
        n_critic: discriminator steps in one generator step.
        ema: `half_life` (images) and `ramp_up` of the averaged generator.
        discriminator_optimizer: where the discriminator's optimizer differs (two time-scales, Heusel et al. 2017).
        accumulate: number of parts a batch is split into; divides each device's share of `batch_size`.
        max_grad_norm: largest norm of a network's gradient over all its weights; a larger gradient is scaled down to
            it before the step (Pascanu et al. 2013, algorithm 1). None: no clipping.
        compile: run the networks through torch.compile, except for penalties (`gantry.models.compilation`).
        terms: further terms of both players' losses (`gantry.models.terms`).
        augment: what the discriminator sees of real and generated images (`gantry.models.augment`); None: all of them.
        classes: of the data; None where it has no labels.
        labels: the classes of generated images: "uniform", each class as often; "data", with the data's shares;
            "paired", each that of a real image of the batch. None: uniform.
        discriminator_labels: those in the discriminator's turn, where they differ.
        first: the player whose turn comes first; "together": both move at once, on the same images and latents.
        generator_batches: images of the generator's step, in batches.
        generator_reals: the real images of the generator's step: those of the "last" step of the discriminator, or
            the "next" batch, which no other step takes.
        spectral_updates: a power iteration of spectral normalisation at each "turn" of a player, or at each forward
            "pass", as the code of Miyato et al. 2018.
        top_k: the share of its images, those that D takes for the most real, from which the generator learns
            (`gantry.models.top_k`), in (0, 1]; None: all.
        dequantise: show the discriminator real images as x / 128 - 1 with x uniform within each grey level, as the
            codes of SNGAN and WGAN-GP do, so that they have no levels that generated images lack.
        image_shape: (C, H, W) of the data's images: `augment` is tried on it, `dequantise` and noise on images need it.
        growth: when the networks grow (`gantry.models.growth`); None: they are whole.

    Attributes:
        noise_stream: counts how often training went back to a checkpoint for other noise (`gantry.training.rollback`);
            saved in checkpoints; loading one never lowers it.
        fixed: carries out steps on inputs at fixed addresses, on a GPU; None: a batch is passed as it is.
        gradient_norms: by player, those of the last step, before clipping.

    Raises:
        UserError: the parts are not compatible.
    """

    averaged: AveragedGenerator
    objective: tuple[Term, ...]

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss,
        optimizer: OptimizerFactory,
        z_dim: int,
        seed: int,
        batch_size: int,
        penalties: Sequence[Penalty] = (),
        constraints: Sequence[Constraint] = (),
        n_critic: int = 1,
        ema: dict[str, Any] | None = None,
        discriminator_optimizer: OptimizerFactory | None = None,
        accumulate: int = 1,
        max_grad_norm: float | None = None,
        compile: bool = False,
        terms: Sequence[PlayersTerm] = (),
        augment: View | None = None,
        classes: Classes | None = None,
        labels: LabelDraw | None = None,
        discriminator_labels: LabelDraw | None = None,
        first: First = "discriminator",
        generator_batches: int = 1,
        generator_reals: Literal["last", "next"] = "last",
        spectral_updates: Literal["turn", "pass"] = "turn",
        top_k: float | Schedule | None = None,
        dequantise: bool = False,
        image_shape: Sequence[int] = (),
        growth: Growth | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        check_discriminator(discriminator, [*penalties, *terms])
        networks = {"generator": generator, "discriminator": discriminator}
        given = {"generator": labels, "discriminator": discriminator_labels}
        check_labels(networks, given, classes)
        self.order = Order(n_critic, first, generator_batches, generator_reals)
        takes = {player: taken_by(network) for player, network in networks.items()}
        self.classes = classes if any("labels" in names for names in takes.values()) else None
        label_draws = {} if self.classes is None else draws_by_player(labels, discriminator_labels)
        check_order(self.order, loss, label_draws, penalties)
        check_codes(generator, discriminator, loss, [*penalties, *terms])
        self.generator, self.discriminator = channels_last(generator), channels_last(discriminator)
        self.images_format = torch.channels_last if lies_channels_last(discriminator) else torch.contiguous_format
        self.averaged = AveragedGenerator(generator, **(ema or {}))
        self.grown = Grown(growth, networks, self.averaged.module)
        self.loss, self.penalties, self.constraints = loss, list(penalties), list(constraints)
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer or optimizer
        self.z_dim, self.seed, self.batch_size, self.n_critic = z_dim, seed, batch_size, n_critic
        self.accumulate, self.max_grad_norm = accumulate, max_grad_norm
        self.noise_stream = 0
        self.fixed: FixedStep | None = None
        self._asking_for_norms: list[Callable[[GAN, str, int], bool]] = []
        self.gradient_norms: Record = {}
        shares = {player: classes.shares_of(draw) for player, draw in label_draws.items()} if classes else {}
        self.draws = Draws(seed, batch_size, shares)
        self.terms, self.augment, self.top_k = terms, augment, top_k
        for term in terms:
            getattr(term, "begin", _nothing)(networks)
        self._terms = nn.ModuleList([term for term in terms if isinstance(term, nn.Module)])  # their state is saved
        self.at_every_pass = spectral_updates == "pass"
        mixing, view = getattr(generator, "draws", None) or {}, 0 if augment is None else augment.width
        encoding = encoder_draws(generator)
        self.inputs = Inputs(z_dim, mixing, view, label_draws, prod(image_shape), dequantise, encoding)
        inferring = generator if isinstance(generator, Inference) else None
        encode = None if inferring is None else inferring.encode
        self.players = Players(
            *(self.generator, self.discriminator, self.averaged),
            generate=compiled(generator) if compile else generator,
            discriminate=compiled(discriminator) if compile else discriminator,
            takes=takes,
            view=augment,
            latents=latent_map(generator),
            reals=self.grown.reals,
            code=None if inferring is None else inferring.code,
            encode=compiled(encode) if compile and encode is not None else encode,
            draws_to_encode=bool(encoding),
        )
        further: dict[str, object] = {"augment": augment, "ema": self.averaged, TOP_K: top_k}
        self.scheduled = Scheduled.of(self.penalties, terms, further | {LOD: self.grown.schedule})
        check_view(augment, image_shape, self.scheduled.values(Progress(0, 0)))

    @property
    def conditional(self) -> bool:
        """True where the generator takes labels."""
        return "labels" in self.players.takes["generator"]

    @property
    def real_batches(self) -> int:
        """Batches of real images that a step takes."""
        return self.order.real_batches

    def configure_optimizers(self) -> list[Optimizer]:
        """Return the generator's and the discriminator's optimizers, in this order.

        Raises:
            UserError: `max_grad_norm` is set, and only the optimizer itself unscales the gradients.
        """
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        optimizers = []
        self.scheduled.optimizers.clear()
        for player, factory in zip(PLAYERS, (self.optimizer, self.discriminator_optimizer), strict=True):
            plain, schedules = without_schedules(factory)
            made = plain if scaled else fused(plain)
            if self._captures():
                made = capturable(made)
            optimizers.append(made(getattr(self, player).parameters()))
            place = "optimizer" if factory is self.optimizer and player == "generator" else f"{player}_optimizer"
            interval = own_step_interval(self.penalties) if player == "discriminator" else None
            self.scheduled.optimizers.append(OptimizerSchedules(place, schedules, optimizers[-1], interval))
            self.scheduled.optimizers[-1].begin()
        check_clipping(optimizers, self.max_grad_norm, scaled)
        return optimizers

    def on_train_start(self) -> None:
        """Adapt the optimizers' loaded state to the weights and the device, and build the terms of the objective."""
        lay_out(self.trainer.optimizers)
        keep_capturable(self.trainer.optimizers, self._captures())
        self.objective = objective(self.loss, self.penalties, self.terms, self.top_k)
        if self.fixed is not None:
            networks = {name: getattr(self, name) for name in (*PLAYERS, "averaged")}
            # A user's may have state of its own.
            parts = {"loss": self.loss, **{f"penalty {n}": part for n, part in enumerate(self.penalties)}}
            parts |= {f"constraint {n}": part for n, part in enumerate(self.constraints)}
            parts |= {f"term {n}": part for n, part in enumerate(self.terms)} | {"augment": self.augment}
            networks |= {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
            self.fixed.begin(networks, self.trainer.optimizers, self.device)

    def on_train_end(self) -> None:
        """Drop what holds addresses on the device, from which Lightning now takes the networks."""
        if self.fixed is not None:
            self.fixed.end()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave a batch on the CPU that `fixed` takes to the device with the other inputs of a step."""
        if self.fixed is not None:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Record:
        """Run one generator step on a batch of `gantry.data.batches.Batches`.

        Returns detached scalars: `loss/discriminator`, `loss/generator` and the mean outputs
        `score/real`, `score/fake` of the last discriminator step, and the last value of each penalty due; each
        the mean over the parts of a batch. The gradients' norms are in `gradient_norms`.
        """
        index = self.global_step
        progress, before = (Progress(step, step * self.batch_size) for step in (index, index - 1))
        level = self.grown.begin(progress, before if index else None, self.trainer.optimizers)
        planned = plan(self.objective, index, self.order, partial(self._watched, index + 1))
        self.scheduled.set_optimizers(progress)
        now = {VALUE + place: torch.scalar_tensor(value) for place, value in self.scheduled.values(progress).items()}
        values = {**batch, **self.drawn(planned), **now}
        share = self.averaged.share(progress, self.batch_size)
        if self.fixed is None:
            inputs = {name: value.to(self.device) for name, value in values.items()}
            record = self._step(planned, LightningEngine(self), inputs | {SHARE: share})
        else:
            graphed = self.fixed.graphed is not None
            engine = Plain(self.max_grad_norm) if graphed else LightningEngine(self)
            kind = (*level, *(turn.kind for turn in planned))
            values |= {SHARE: torch.scalar_tensor(share)}
            kinds = partial(self._kinds, values)
            record = self.fixed(kind, kinds, values, partial(self._step, planned, engine), self.device)
            if graphed:
                count_step(self)
        norms = [name for name in record if name.startswith(GRADIENT)]
        self.gradient_norms = {name.removeprefix(GRADIENT): record.pop(name) for name in norms}
        return record

    def drawn(self, planned: Sequence[Planned]) -> dict[str, Tensor]:
        """Draw what a step needs, on the CPU: latents (B, z_dim), labels (B,) and uniform numbers of each turn."""
        return {
            turn.key(purpose): self._drawn(turn, draw)
            for turn in planned
            for purpose, draw in turn.drawn(self.inputs).items()
        }

    def _drawn(self, turn: Planned, draw: Drawn) -> Tensor:
        stream, index = self._stream(draw.stream), turn.index
        match draw.kind:
            case "normal":
                return self._mine(self.draws.latents(index, stream, draw.width, draw.batches))
            case "labels":
                return self._mine(self.draws.labels(index, stream, turn.player, draw.batches))
            case "uniform":
                return self._mine(self.draws.uniform(index, stream, draw.width, draw.batches))

    def _step(self, planned: Sequence[Planned], engine: Engine, inputs: Mapping[str, Any]) -> Record:
        made = turns(planned, self.inputs, inputs, self.constraints, self.images_format)
        optimizers = dict(zip(PLAYERS, self.trainer.optimizers, strict=True))
        return step(
            self.players, made, optimizers, inputs[SHARE], engine, self.accumulate, at_every_pass=self.at_every_pass
        )

    def _kinds(self, values: Mapping[str, Tensor]) -> dict[str, Kind]:
        """Return the inputs that any step has: those of this one, and what turns and terms draw that are not due."""
        kinds = {name: Kind(tuple(value.shape), value.dtype) for name, value in values.items()}
        local = self.batch_size // self.trainer.world_size
        for turn in plan(self.objective, 0, self.order, everything=True):
            for purpose, draw in turn.drawn(self.inputs).items():
                kinds.setdefault(turn.key(purpose), Kind(draw.shape(local), draw.dtype))
        return kinds

    def ask_for_norms(self, asks: Callable[["GAN", str, int], bool]) -> None:
        """Record the norm of a player's gradient, in `gradient_norms`, in each step in which a callable returns True.

        Args:
            asks: called once a step for each player with the GAN, the player and the step, counted from 1.
        """
        if asks not in self._asking_for_norms:
            self._asking_for_norms.append(asks)

    def _captures(self) -> bool:
        """Return True where optimizers step inside CUDA graphs."""
        graphed = self.fixed is not None and self.fixed.capture is not None
        return graphed and self.trainer.strategy.root_device.type == "cuda"

    def _watched(self, step: int, player: str) -> bool:
        answers = [
            asks(self, player, step) for asks in self._asking_for_norms
        ]  # each is asked, and may note its answer
        return any(answers)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient, which at this point is that of the whole batch, averaged over ranks and unscaled."""
        if self.max_grad_norm is not None:
            clip_grad_norm_(weights_of(optimizer), self.max_grad_norm)

    def _stream(self, purpose: str) -> str:
        return f"{purpose}, stream {self.noise_stream}" if self.noise_stream else purpose

    def _mine(self, values: Tensor) -> Tensor:
        if (ranks := self.trainer.world_size) == 1:
            return values
        local = len(values) // ranks
        return values[self.trainer.global_rank * local :][:local]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save `noise_stream`."""
        checkpoint["noise_stream"] = self.noise_stream

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore `noise_stream`."""
        self.noise_stream = max(self.noise_stream, checkpoint.get("noise_stream", 0))


def _nothing(networks: Mapping[str, nn.Module]) -> None:
    """Do nothing: a term that has no `begin`."""
