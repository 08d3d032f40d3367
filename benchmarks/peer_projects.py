"""The projects that `peers.py` measures: their networks, and their training loops executed from their files.

They run in a folder with links to the checkouts and to the images. What a project imports and nobody measures is stood
in for.
"""

import contextlib
import functools
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gantry.models.module import GAN


@dataclass(frozen=True)
class Peer:
    """A configuration of another project.

    Attributes:
        project: its repository's name.
        path: a file or folder in it without which it is absent.
        shape: (C, H, W) of an image.
        batch, n_critic: as in `gantry.models.module.GAN`.
        options: what else the GAN takes, `lr` and `betas` of Adam.
        networks: imports the project and builds its generator and discriminator, wrapped to be the GAN's.
        trains: imports the project and trains by its loop, in a folder with the images, and does not end.
        unlike: how the two differ, for the table.
        count: images there are, so many that no epoch ends for a project that does more than reading at its end.
        turn: its turns are so many times as long.
        own: what else `model` says in Gantry's config.
    """

    project: str
    path: str
    shape: tuple[int, int, int]
    batch: int
    n_critic: int
    options: dict[str, Any]
    networks: Callable[[], tuple[nn.Module, nn.Module]]
    trains: Callable[[], None]
    unlike: str
    count: int = 8192
    turn: int = 1
    own: dict[str, Any] = field(default_factory=dict)


# What projects import and what is measured does not need.


class Silent:
    """Stands for a writer of TensorBoard's: takes everything and writes nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Flags(types.SimpleNamespace):
    """Stands for absl's flags: their defaults."""

    def define(self, name: str, default: Any, *_: Any) -> None:
        """A flag of any kind."""
        setattr(self, name, default)

    def flags_into_string(self) -> str:
        """For the logs, which nobody reads."""
        return ""


def stand_in(name: str, **content: Any) -> None:
    """A module of this name with this content, installed or not: so that all measure the same."""
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)


# pytorch/examples


def example(stop: bool) -> dict[str, Any]:
    """Execute the script; with `stop` only until it reads its first batch. Returns its variables."""
    path = Path("examples/dcgan/main.py")
    sys.argv = [str(path), "--dataset", "folder", "--dataroot", "images", "--workers", "0", "--outf", "out"]
    variables: dict[str, Any] = {"__name__": "__main__"}
    if stop:

        def ended(loader: DataLoader) -> Iterator[Any]:
            raise StopAsyncIteration

        DataLoader.__iter__ = ended
    with contextlib.suppress(StopAsyncIteration):
        exec(compile(path.read_text(), path, "exec"), variables)
    return variables


class FromVectors(nn.Module):
    """A generator of latents (B, z_dim) around one of (B, z_dim, 1, 1)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W)."""
        return self.network(z[..., None, None])


class Flat(nn.Module):
    """A discriminator of logits (B,) around one of (B, 1)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,)."""
        return self.network(images).flatten()


def example_networks() -> tuple[nn.Module, nn.Module]:
    """PyTorch's DCGAN, without the sigmoid at its end."""
    iterate = DataLoader.__iter__
    found = example(stop=True)
    DataLoader.__iter__ = iterate
    found["netD"].main = found["netD"].main[:-1]
    return FromVectors(found["netG"]), found["netD"]


# kwotsin/mimicry


def mimicry() -> types.ModuleType:
    """The package."""
    for name in ("tensorflow", "skimage"):
        stand_in(name, io=None)
    stand_in("torch.utils.tensorboard", SummaryWriter=Silent)
    sys.path.insert(0, "mimicry")
    return importlib.import_module("torch_mimicry")


def mimicry_pair(kind: str) -> tuple[nn.Module, nn.Module]:
    """The generator and discriminator of 32 pixels."""
    nets = getattr(mimicry().nets, kind.lower())
    return getattr(nets, f"{kind}Generator32")(), getattr(nets, f"{kind}Discriminator32")()


def mimicry_networks(kind: str) -> tuple[nn.Module, nn.Module]:
    """For Gantry."""
    generator, discriminator = mimicry_pair(kind)
    return generator, Flat(discriminator)


def mimicry_trains(kind: str) -> None:
    """As in its example."""
    package, (generator, discriminator) = mimicry(), mimicry_pair(kind)
    dataset = package.datasets.load_dataset(root="datasets", name="cifar10")
    loader = DataLoader(dataset, batch_size=MIMICRY_BATCH, shuffle=True)
    optimizers = {
        name: torch.optim.Adam(network.parameters(), 2e-4, betas=(0.0, 0.9))
        for name, network in (("optD", discriminator), ("optG", generator))
    }
    package.training.Trainer(
        netD=discriminator,
        netG=generator,
        n_dis=5,
        num_steps=100_000,
        lr_decay="linear",
        dataloader=loader,
        log_dir="out",
        device=torch.device("cpu"),
        **optimizers,
    ).train()


# w86763777/pytorch-gan-collections


def collection(script: str, flags: str) -> types.ModuleType:
    """A script of the collection, with the flags of one of its files in configs/."""
    values = Flags()
    kinds = ("enum", "integer", "multi_float", "string", "bool")
    defined = {f"DEFINE_{kind}": values.define for kind in kinds}
    defined["DEFINE_float"] = lambda name, default, *_: values.define(name, float(default))
    stand_in("absl", app=None, flags=Flags(FLAGS=values, **defined))
    stand_in("tensorboardX", SummaryWriter=Silent)
    stand_in("pytorch_gan_metrics", get_inception_score_and_fid=None)
    sys.path.insert(0, "pytorch-gan-collections")
    module = importlib.import_module(script)
    for line in Path(f"pytorch-gan-collections/configs/{flags}.txt").read_text().split():
        name, _, value = line.removeprefix("--").partition("=")
        default = getattr(module.FLAGS, name)
        setattr(module.FLAGS, name, type(default)(value) if value else True)
    module.FLAGS.record, module.FLAGS.logdir = False, "out"  # no FID in the first step
    module.device = torch.device("cpu")
    return module


def collection_networks(script: str, flags: str) -> tuple[nn.Module, nn.Module]:
    """Of the script."""
    module = collection(script, flags)
    arch = module.FLAGS.arch
    return module.net_G_models[arch](module.FLAGS.z_dim), Flat(module.net_D_models[arch]())


class TwiceForGenerator(GAN):
    """A GAN whose generator's step takes twice the batch, as the collection has it."""

    def noise(self, index: int, purpose: str) -> Tensor:
        """Latents (B, z_dim), or (2 B, z_dim) for the generator's step."""
        noise = super().noise(index, purpose)
        if purpose == "discriminator noise":
            return noise
        return torch.cat([noise, super().noise(index, f"{purpose}, second half")])


# Lightning's example


def lightning() -> types.ModuleType:
    """The script, with `pytorch_lightning` under its other name where that one is not installed."""
    with contextlib.suppress(ImportError):
        import lightning.pytorch  # noqa: F401
    if "lightning.pytorch" not in sys.modules:
        sys.modules["lightning"] = types.ModuleType("lightning")
        for name in ("", ".core", ".demos.mnist_datamodule", ".trainer", ".utilities.imports"):
            sys.modules[f"lightning.pytorch{name}"] = importlib.import_module(f"pytorch_lightning{name}")
    sys.path.insert(0, "pytorch-lightning/examples/pytorch/domain_templates")
    return importlib.import_module("generative_adversarial_net")


def lightning_networks() -> tuple[nn.Module, nn.Module]:
    """The example's."""
    gan = lightning().GAN()
    return gan.generator, Flat(gan.discriminator)


def lightning_trains() -> None:
    """As the example's main, but on a CPU."""
    module = lightning()
    module.Trainer(accelerator="cpu", devices=1).fit(module.GAN(), module.MNISTDataModule())


STOOD_IN = (
    "Stood in for, as far as importing needs: tensorflow, skimage and torch.utils.tensorboard of mimicry, absl, "
    "tensorboardX and pytorch_gan_metrics of pytorch-gan-collections. Writers to TensorBoard write nothing, which "
    "favours these two; their output to the terminal goes to the null device. torchvision takes the noise for CIFAR-10 "
    "without looking at its checksums."
)
MIMICRY_BATCH = 8  # 64 in its example, which takes a step of many seconds on two cores
DENSE = "logs each step (progress bar, CSV file), and takes one batch of latents for both networks' steps"
MIMICRY = "fetches four numbers of the device at every discriminator step and prints them at every step; batch 64 there"
COLLECTION = (
    "fetches the loss at every discriminator step for its progress bar; the generator's step takes twice the batch, "
    "here too; learning rates fall linearly there"
)
PEERS = {
    "DCGAN of pytorch/examples": Peer(
        *("examples", "dcgan/main.py", (3, 64, 64), 64, 1),
        {"z_dim": 100, "loss": "non_saturating", "lr": 2e-4, "betas": [0.5, 0.999]},
        *(example_networks, functools.partial(example, stop=False)),
        "the generator's step takes the fakes of the discriminator's, so one generator forward fewer; BCE of a "
        "sigmoid; five numbers fetched and printed at every step; decodes its images in every epoch",
    ),
    "DCGAN of mimicry": Peer(
        *("mimicry", "torch_mimicry", (3, 32, 32), MIMICRY_BATCH, 5),
        {"z_dim": 128, "loss": "non_saturating", "lr": 2e-4, "betas": [0.0, 0.9]},
        *(functools.partial(mimicry_networks, "DCGAN"), functools.partial(mimicry_trains, "DCGAN")),
        MIMICRY,
    ),
    "SNGAN of mimicry": Peer(
        *("mimicry", "torch_mimicry", (3, 32, 32), MIMICRY_BATCH, 5),
        {"z_dim": 128, "loss": "hinge", "lr": 2e-4, "betas": [0.0, 0.9]},
        *(functools.partial(mimicry_networks, "SNGAN"), functools.partial(mimicry_trains, "SNGAN")),
        MIMICRY,
    ),
}
for _name, _script, _flags, _options in (
    ("DCGAN", "dcgan", "DCGAN_CIFAR10", {"loss": "non_saturating", "betas": [0.5, 0.9]}),
    ("SNGAN", "sngan", "SNGAN_CIFAR10_CNN", {"loss": "hinge", "betas": [0.0, 0.9]}),
    ("WGAN-GP", "wgangp", "WGANGP_CIFAR10_CNN", {"loss": "wasserstein", "betas": [0.0, 0.9]}),
):
    PEERS[f"{_name} of pytorch-gan-collections"] = Peer(
        *("pytorch-gan-collections", f"{_script}.py", (3, 32, 32), 128, 1),
        {"z_dim": 100, "lr": 2e-4, **_options},
        functools.partial(collection_networks, _script, _flags),
        functools.partial(lambda script, flags: collection(script, flags).train(), _script, _flags),
        COLLECTION,
        own={"_target_": "peer_projects.TwiceForGenerator"}
        | (
            {"penalties": [{"_target_": "gantry.models.penalties.GradientPenalty", "weight": 10.0}]}
            if _name[0] == "W"
            else {}
        ),
    )
PEERS["dense GAN of Lightning"] = Peer(
    *("pytorch-lightning", "examples/pytorch/domain_templates/generative_adversarial_net.py", (1, 28, 28), 32, 1),
    {"z_dim": 100, "loss": "non_saturating", "lr": 2e-4, "betas": [0.5, 0.999]},
    *(lightning_networks, lightning_trains),
    DENSE,
    *(49152, 10),
)
