"""Small GANs trained by one process, or by gloo ranks that each have a part of the batch, and what each sees of it."""

import hashlib
import sys
from dataclasses import asdict, dataclass, field
from functools import partial

from gantry.core.fast_imports import lean_imports

with lean_imports():  # as a run does: seconds less
    import pytorch_lightning  # noqa: F401

import torch
import torch.distributed as dist
from gan_variants import BATCH, CLASSES, SHAPE, VARIANTS, Z
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from gantry.core.processes.ranks import Place
from gantry.core.randomness import draws
from gantry.data.batches import Batches
from gantry.data.images import ImageSet
from gantry.models.labels import Classes
from gantry.models.module import GAN
from gantry.models.penalties import GradientPenalty
from gantry.training.distributed.strategy import NetworkwiseDDP, plugins

RECORDED = 3  # steps whose batches are kept


@dataclass(frozen=True)
class Case:
    """How to train.

    Attributes:
        variant: of VARIANTS.
        steps: generator steps.
        strategy: of STRATEGIES, where there are several ranks.
        sync: whether BatchNorm is over all ranks' images.
        accumulate: parts a batch is taken in.
        jolted: whether each rank's buffers are moved after the first step, as another machine's rounding would.
        same_draws: whether ranks draw as Lightning's users do.
    """

    variant: str
    steps: int = 20
    strategy: str = "ours"
    sync: bool = False
    accumulate: int = 1
    jolted: bool = False
    same_draws: bool = False


class SameDrawsEverywhere(GAN):
    """Draws from the global generator, which Lightning seeds alike on every rank."""

    def _drawn(self, turn, draw):
        shape = draw.shape(self.batch_size // self.trainer.world_size)
        return torch.randn(shape) if draw.kind == "normal" else torch.rand(shape)


CASES = {
    "wgan_gp": Case("wgan_gp"),
    "sngan": Case("sngan"),
    "dcgan": Case("dcgan", sync=True),
    "dcgan, plain": Case("dcgan"),
    "wgan_gp in parts": Case("wgan_gp", 10, accumulate=3),
    "sngan, jolted": Case("sngan", 2, jolted=True),
    "wgan_gp, Lightning": Case("wgan_gp", 10, "lightning"),
    "dcgan, Lightning": Case("dcgan", strategy="lightning"),
    "sngan, Lightning": Case("sngan", 10, "lightning"),
    "sngan, jolted, Lightning": Case("sngan", 2, "lightning", jolted=True),
    "wgan_gp, same draws": Case("wgan_gp", RECORDED, same_draws=True),
    "acgan": Case("acgan", 10),
    "reacgan": Case("reacgan", 10),
    "adaptive": Case("adaptive", 10),
    "paired": Case("paired", 10),
    "acgan, lazily": Case("acgan, lazily", 10),
    "stylegan2": Case("stylegan2", 2),
    "relativistic": Case("relativistic", 2),
    "improved": Case("improved", 2),
    "infogan": Case("infogan"),
    "progan": Case("progan"),
    "generator first": Case("generator first", 2),
    "wgan_gp, Lightning's default": Case("wgan_gp", 1, "default"),
}
SLOW = {"vanilla": Case("vanilla")}  # millions of weights
STRATEGIES = {
    "ours": NetworkwiseDDP,
    "lightning": partial(DDPStrategy, find_unused_parameters=True),
    "default": DDPStrategy,
}


def smooth(network):
    """The network with its kinks rounded off, in place.

    Rounding may put an activation on either side of a kink, and its gradient jumps: from weights that differ in their
    last digit, one process too trains networks that differ by 1e-3 after ten steps.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.ReLU | nn.LeakyReLU):
            network.set_submodule(name, nn.SiLU())
    return network


def images():
    """50 images, not a multiple of the batch, that may be mirrored."""
    pixels = draws(0, 0, "test images").integers(0, 256, (50, *SHAPE), dtype="uint8")
    labels = draws(0, 0, "test labels").integers(0, CLASSES, 50)
    return ImageSet("noise", pixels, labels, ("a", "b", "c"), "all", "drawn", "0" * 64, flip=True)


class RecordedPenalty:
    """A gradient penalty that keeps the numbers it mixes by."""

    every = 1

    def __init__(self, kept):
        self.kept = kept

    def __call__(self, discriminator, real, fake, uniform):
        self.kept.append(uniform.clone())
        return GradientPenalty(10.0)(discriminator, real, fake, uniform)


@dataclass
class Seen:
    """What one rank saw of a training.

    Attributes:
        states: by the number of steps done: the state of the whole GAN.
        digests: after each step: of all parameters.
        own: at each step: the networks' buffers as the rank left them, before they agree.
        exchanged: for each optimizer step, its network and the bytes of gradients exchanged for it, by whose they are.
        totals: for each generator step: the bytes of all sums over ranks.
        noise: the generator's inputs.
        mixing: the numbers by which a penalty mixes real and generated images.
        real: real images of the first steps.
        error: what ended the training.
        sizes: elements of each network's parameters, and of both networks' buffers.
    """

    states: dict = field(default_factory=dict)
    digests: list = field(default_factory=list)
    own: list = field(default_factory=list)
    exchanged: list = field(default_factory=list)
    totals: list = field(default_factory=list)
    noise: list = field(default_factory=list)
    mixing: list = field(default_factory=list)
    real: list = field(default_factory=list)
    error: str | None = None
    sizes: dict = field(default_factory=dict)


class Watch(Callback):
    """Fills in what is seen, and leaves a checkpoint after the last step."""

    def __init__(self, case, checkpoint):
        self.case, self.checkpoint, self.seen = case, checkpoint, Seen()
        self.gradients, self.total = {}, 0

    def on_train_start(self, trainer, gan):
        self.seen.sizes = {
            "generator": elements(gan.generator.parameters()),
            "discriminator": elements(gan.discriminator.parameters()),
            "buffers": elements([*gan.generator.buffers(), *gan.discriminator.buffers()]),
        }
        gan.generator.register_forward_pre_hook(lambda _, inputs: self.seen.noise.append(inputs[0].clone()))
        for name, optimizer in zip(("generator", "discriminator"), trainer.optimizers, strict=True):
            optimizer.register_step_pre_hook(partial(self.before_step, name, gan))
        if trainer.world_size > 1:
            strategy = trainer.strategy
            if isinstance(strategy, NetworkwiseDDP):
                wrapped = dict(zip(("generator", "discriminator"), strategy.networks, strict=True))
            else:
                wrapped = {"both": strategy.model}
            for name, network in wrapped.items():
                network.register_comm_hook(name, self.exchange)

    def exchange(self, name, bucket):
        self.gradients[name] = self.gradients.get(name, 0) + bucket.buffer().nbytes
        return allreduce_hook(None, bucket)

    def before_step(self, name, gan, *_):
        self.seen.exchanged.append((name, self.gradients))
        self.gradients = {}
        if name == "generator":
            networks = (("generator", gan.generator), ("discriminator", gan.discriminator))
            self.seen.own.append({f"{n}.{k}": b.clone() for n, net in networks for k, b in net.named_buffers()})

    def on_train_batch_start(self, trainer, gan, batch, batch_idx):
        COUNTED.clear()
        if trainer.global_step < RECORDED:
            self.seen.real.append(batch["images"])

    def on_train_batch_end(self, trainer, gan, outputs, batch, batch_idx):
        self.seen.totals.append(sum(COUNTED))
        step = trainer.global_step
        weights = [*gan.generator.parameters(), *gan.discriminator.parameters()]
        self.seen.digests.append(hashlib.sha256(b"".join(w.detach().numpy().tobytes() for w in weights)).hexdigest())
        if step in (1, 2, 10, 20):
            self.seen.states[step] = {name: value.clone() for name, value in gan.state_dict().items()}
        if step == self.case.steps and self.checkpoint:
            trainer.save_checkpoint(self.checkpoint)
        if step == 1 and self.case.jolted:
            for buffer in [*gan.generator.buffers(), *gan.discriminator.buffers()]:
                buffer += 0.1 * trainer.global_rank


def elements(tensors):
    """How many there are in all tensors together."""
    return sum(tensor.numel() for tensor in tensors)


COUNTED = []  # bytes of every sum over ranks


def counted(all_reduce):
    """`torch.distributed.all_reduce`, counted."""

    def counting(tensor, *args, **options):
        COUNTED.append(tensor.nbytes)
        return all_reduce(tensor, *args, **options)

    return counting


def train(case, rank=0, world=1, checkpoint=None):
    """Train as `case` says; returns what this rank saw, and rank 0 leaves a checkpoint where it is told to."""
    torch.manual_seed(3)
    watch = Watch(case, checkpoint)
    parts = dict(VARIANTS[case.variant])
    kind = SameDrawsEverywhere if case.same_draws else GAN
    further = parts.pop("further", dict)()
    if case.variant == "wgan_gp":
        further["penalties"] = [RecordedPenalty(watch.seen.mixing)]
    data = images()
    gan = kind(
        smooth(parts.pop("generator")()),
        smooth(parts.pop("discriminator")()),
        optimizer=partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999)),
        z_dim=Z,
        seed=1,
        batch_size=BATCH,
        ema={"half_life": 100},
        accumulate=case.accumulate,
        classes=Classes.of(data.labels, data.classes),
        **parts,
        **further,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=world,
        strategy="auto" if world == 1 else STRATEGIES[case.strategy](),
        plugins=None if world == 1 else plugins(Place(rank, world, world, "gantry"), case.sync),
        max_steps=case.steps,
        max_epochs=-1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(gan, Batches(data, BATCH, gan.real_batches, gan.seed, rank, world))
    except RuntimeError as error:
        watch.seen.error = str(error)
    return watch.seen


def main(rank, world, folder, *names):
    """Be one rank and leave what it saw of these cases in `folder`."""
    torch.set_num_threads(1)
    seed_everything(5, verbose=False)
    dist.all_reduce = counted(dist.all_reduce)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    cases = CASES | SLOW
    seen = {name: asdict(train(cases[name], rank, world, f"{folder}/{name}.ckpt")) for name in names}
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
