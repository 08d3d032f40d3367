"""How fast other projects train, and how fast Gantry trains their networks.

    python benchmarks/peers.py [folder of checkouts] [rounds] [steps] [names]

Takes checkouts of the projects from the folder, each under its repository's name, and says which are absent:

    github.com/pytorch/examples, github.com/kwotsin/mimicry, github.com/w86763777/pytorch-gan-collections,
    github.com/Lightning-AI/pytorch-lightning

Each configuration has three contenders: the project's own training loop, executed from its files; and its networks,
with its loss, optimizers and batch, in `gantry.training.run.train` with callbacks and tracking, float32 and bf16-mixed.
Each is a process of its own, for what one asks of the memory allocator all others in its process would have too, and
they take turns of `steps` steps (the dense pair of ten times as many); in the first turn, of ten steps at least, they
warm up. The median over `rounds` turns counts, and ratios are taken within a round, of the time and of what the
process spent on the processor, which other work on the machine disturbs less. A step is a generator step with its
n_critic discriminator steps, and an image a real one.

In the end every weight and every moment of Adam has to be finite, every network to have changed, and the number of
weights to be that of the project's networks. Defaults: ../peers 5 5 and all of the names in `PEERS`. Prints Markdown.

The images are smooth noise, in the files the project reads, and read by its own data set, transforms and loader in the
process that trains: on few cores workers would take the step's, and fetch ahead while others have their turn. "data"
is the share of the project's time that this takes, at most what workers on idle cores would save.
"""

import functools
import multiprocessing
import os
import pickle
import resource
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from peer_projects import PEERS, STOOD_IN
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from step import ROOT, WARM_UP, machine
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader
from tqdm import tqdm

from gantry.data.images import ImageSet
from gantry.training.run import train

PRECISIONS = ("32-true", "bf16-mixed")
SETTINGS = {"num_workers": 0}  # of every loader of a project


class Turns:
    """A contender's end of the pipe by which it is told to go on."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.left, self.reading = pipe, 0, 0.0
        self.began: tuple[float, float] | None = None
        self.before: dict[Optimizer, list[Tensor]] = {}
        self.watch = register_optimizer_step_pre_hook(self._first_step)

    def _first_step(self, optimizer: Optimizer, *_: Any) -> None:
        if optimizer not in self.before:
            self.before[optimizer] = [weight.detach().clone() for weight in _weights(optimizer)]

    def step(self) -> None:
        """Before every step: at the end of a turn say how long it took, and wait for the next one."""
        if self.left == 0:
            if self.began is None:
                self.pipe.send(None)
            else:
                taken = (now - then for now, then in zip(_clocks(), self.began, strict=True))
                self.pipe.send((*taken, self.reading))
                self.watch.remove()
            self.left = self.pipe.recv()
            if not self.left:
                self.pipe.send(self._found())
                os._exit(0)
            self.began, self.reading = _clocks(), 0.0
        self.left -= 1

    def _found(self) -> tuple[list[int], bool, bool]:
        """The weights of each network, whether all numbers are finite, and whether each network has changed."""
        numbers = [value for optimizer in self.before for value in _weights(optimizer)]
        numbers += [
            value for optimizer in self.before for state in optimizer.state.values() for value in state.values()
        ]
        changed = [
            any(not torch.equal(old, new) for old, new in zip(weights, _weights(optimizer), strict=True))
            for optimizer, weights in self.before.items()
        ]
        counts = sorted(sum(weight.numel() for weight in weights) for weights in self.before.values())
        return counts, all(bool(value.isfinite().all()) for value in numbers), all(changed) and len(changed) == 2

    def loaders(self, n_critic: int) -> None:
        """Have all of torch's data loaders ask for turns, a step to every `n_critic` batches, and tell their time."""
        iterate, begin, batches = DataLoader.__iter__, DataLoader.__init__, 0

        @functools.wraps(begin)
        def begun(loader: DataLoader, *given: Any, **options: Any) -> None:
            begin(loader, *given, **(options | SETTINGS))

        def iterated(loader: DataLoader) -> Iterator[Any]:
            nonlocal batches
            source = iterate(loader)
            while True:
                if batches % n_critic == 0:
                    self.step()
                batches += 1
                began = time.perf_counter()
                try:
                    batch = next(source)
                except StopIteration:
                    return
                self.reading += time.perf_counter() - began
                yield batch

        DataLoader.__init__, DataLoader.__iter__ = begun, iterated


def _clocks() -> tuple[float, float]:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), spent.ru_utime + spent.ru_stime


def _weights(optimizer: Optimizer) -> list[nn.Parameter]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def make_images(shape: tuple[int, int, int], count: int, seed: int = 0) -> np.ndarray:
    """Smooth noise, uint8 (count, C, H, W)."""
    random = torch.Generator().manual_seed(seed)
    parts = [
        interpolate(torch.randn(len(part), shape[0], 4, 4, generator=random), shape[1:], mode="bicubic")
        for part in torch.arange(count).split(1024)
    ]
    return np.concatenate([(255 * part.sigmoid()).byte().numpy() for part in parts])


def write_images(folder: Path, images: np.ndarray) -> None:
    """As array, and as the projects read them: 64 pixels a folder of files, 32 CIFAR-10, 28 MNIST."""
    np.save(folder / "images.npy", images)
    pixels = images.shape[-1]
    if pixels == 64:
        (folder / "images" / "all").mkdir(parents=True)
        for index, image in enumerate(images.transpose(0, 2, 3, 1)):
            Image.fromarray(image).save(folder / "images" / "all" / f"{index}.png", compress_level=1)
    elif pixels == 32:
        for place in ("data", "datasets/cifar10"):
            (batches := folder / place / "cifar-10-batches-py").mkdir(parents=True)
            (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(label) for label in range(10)]}))
            for index, part in enumerate([*np.array_split(images, 5), images[:1]]):
                content = {"data": part.reshape(len(part), -1), "labels": [0] * len(part)}
                (batches / (f"data_batch_{index + 1}" if index < 5 else "test_batch")).write_bytes(
                    pickle.dumps(content)
                )
    else:
        (raw := folder / "data" / "MNIST" / "raw").mkdir(parents=True)
        for name, part in (("train", images), ("t10k", images[:1000])):
            sizes = (2051, len(part), pixels, pixels)
            (raw / f"{name}-images-idx3-ubyte").write_bytes(np.array(sizes, ">i4").tobytes() + part.tobytes())
            header = np.array((2049, len(part)), ">i4").tobytes()
            (raw / f"{name}-labels-idx1-ubyte").write_bytes(header + bytes(len(part)))


# What Gantry's config names: the images, the networks, and something to look at images with.


def image_set(file: str, cache: Path) -> ImageSet:
    """The images of a file of numpy's."""
    return ImageSet("noise", np.load(file), None, None, "all", file, "0" * 64, flip=False)


@functools.cache
def networks_of(name: str) -> tuple[nn.Module, nn.Module]:
    """Those of a configuration."""
    return PEERS[name].networks()


def generator(name: str, z_dim: int, image_shape: list[int]) -> nn.Module:
    """That of a configuration."""
    return networks_of(name)[0]


def discriminator(name: str, image_shape: tuple[int, int, int]) -> nn.Module:
    """That of a configuration."""
    return networks_of(name)[1]


class Thumbnail(nn.Module):
    """Features for an evaluation before the first step."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, 4) of (B, C, H, W)."""
        return nn.functional.adaptive_avg_pool2d(images.float().mean(1, keepdim=True), 2).flatten(1)


def config(name: str, precision: str, folder: Path, steps: int) -> DictConfig:
    """Of Gantry's run of a configuration."""
    peer = PEERS[name]
    given = [f"paths.root={folder}", f"paths.cache={folder / 'cache'}", "tracking.run_name=peers"]
    given += [f"batch_size={peer.batch}", f"trainer.precision={precision}", "trainer.accelerator=cpu", "steps=1000000"]
    given += ["metrics.every=1000000", "metrics.n_generated=100", f"log_every={min(50, steps)}", "model=dcgan"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", given)
    options = {key: value for key, value in peer.options.items() if key not in ("loss", "lr", "betas")}
    optimizer = {key: peer.options[key] for key in ("lr", "betas")}
    model = {
        **options,
        "loss": {"_target_": f"gantry.models.losses.{peer.options['loss']}"},
        "optimizer": optimizer,
        "n_critic": peer.n_critic,
        **peer.own,
    }
    OmegaConf.set_struct(cfg, False)
    cfg.model = OmegaConf.merge(cfg.model, model)
    for part in ("generator", "discriminator"):
        cfg.model[part] = {"_target_": f"peers.{part}", "name": name}
    cfg.data = {"_target_": "peers.image_set", "file": str(folder / "images.npy")}
    look = {
        "_target_": "gantry.evaluation.extractors.networks.own",
        "network": {"_target_": "peers.Thumbnail"},
        "name": "thumbnail",
    }
    cfg.metrics.extractor = look
    return cfg


class Told(Callback):
    """Has Gantry's run take its turns."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before every step."""
        self.turns.step()


def contend(pipe: Connection, name: str, precision: str | None, checkouts: Path, folder: Path, steps: int) -> None:
    """The process of a contender: Gantry in a precision, or, without one, the project."""
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silence, stream)
        tqdm.set_lock(threading.RLock())  # its own is shared by processes, and left behind by one that is ended
        sys.path.insert(0, str(Path(__file__).parent))
        import torchvision

        torchvision.datasets.cifar.check_integrity = lambda path, md5: Path(path).is_file()
        here = folder / (precision or "theirs")
        here.mkdir()
        for path in (*folder.glob("*"), *checkouts.glob("*")):  # they write to where they are
            if path.name in ("images", "data", "datasets") or path.parent == checkouts:
                (here / path.name).symlink_to(path)
        os.chdir(here)
        turns = Turns(pipe)
        if precision is None:
            turns.loaders(PEERS[name].n_critic)
            PEERS[name].trains()
        else:
            cfg = config(name, precision, folder, steps)
            run = here / "run"
            run.mkdir()
            train(cfg, run, {"variant": "peer", "dataset": "noise"}, watching=[Told(turns)])
        raise RuntimeError("it has ended before it was told to")
    except BaseException:
        pipe.send(traceback.format_exc())


def answer(pipe: Connection) -> Any:
    """What a contender says."""
    said = pipe.recv()
    if isinstance(said, str):
        raise RuntimeError(said)
    return said


def compare(name: str, checkouts: Path, rounds: int, steps: int) -> str:
    """A row of the table."""
    peer = PEERS[name]
    steps *= peer.turn
    images = peer.batch * peer.n_critic * steps
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), make_images(peer.shape, peer.count))
        try:
            for precision in (None, *PRECISIONS):
                mine, other = context.Pipe()
                process = context.Process(target=contend, args=(other, name, precision, checkouts, Path(folder), steps))
                process.start()
                other.close()
                pipes.append(mine)
                processes.append(process)
            for pipe in pipes:
                answer(pipe)
            taken: list[list[tuple[float, float, float]]] = [[] for _ in pipes]
            for turn in range(rounds + 1):
                order = list(zip(pipes, taken, strict=True))
                for pipe, times in order if turn % 2 else order[::-1]:
                    pipe.send(steps if turn else max(WARM_UP, steps))
                    times.append(answer(pipe))
            found = []
            for pipe in pipes:
                pipe.send(0)
                found.append(answer(pipe))
        finally:
            for process in processes:
                process.kill()  # Gantry takes a request to stop for the end of a step
                process.join()
    if any(counts != found[0][0] or not (finite and changed) for counts, finite, changed in found):
        raise ArithmeticError(f"{name}: (weights, finite, changed) of each contender are {found}")
    theirs, *ours = (times[1:] for times in taken)
    cells = [
        *(name, str(peer.shape[1]), f"{peer.batch}", f"{peer.n_critic}", f"{1e3 * middle(theirs, 0) / steps:.0f}"),
        f"{images / middle(theirs, 0):.0f}",
        f"{100 * statistics.median(reading / wall for wall, _, reading in theirs):.0f} %",
    ]
    for times in ours:
        ratios, spent = ([before[at] / now[at] for before, now in zip(theirs, times, strict=True)] for at in (0, 1))
        cells += [
            f"{images / middle(times, 0):.0f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{statistics.median(spent):.2f}",
        ]
    return f"| {' | '.join(cells)} |"


def middle(times: list[tuple[float, float, float]], at: int) -> float:
    """The median of one of the numbers of each turn."""
    return statistics.median(one[at] for one in times)


def main(arguments: list[str]) -> None:
    """Measure and print."""
    defaults = ["../peers", "5", "5", ",".join(PEERS)]
    folder, rounds, steps, names = arguments + defaults[len(arguments) :]
    checkouts = Path(folder).resolve()
    print(f"`python benchmarks/peers.py {' '.join(['<folder>', *arguments[1:]])}`\n\n{machine()}.\n")
    headings = ["", "pixels", "batch", "n_critic", "its step, ms", "its images/s", "data"]
    for precision in PRECISIONS:
        headings += [f"Gantry, {precision}", "times as fast", "by processor time"]
    print(f"| {' | '.join(headings)} |\n|{' --- |' * len(headings)}", flush=True)
    absent, unlike = [], []
    for name in names.split(","):
        if (checkouts / PEERS[name].project / PEERS[name].path).exists():
            print(compare(name, checkouts, int(rounds), int(steps)), flush=True)
            unlike.append(f"- {name}: {PEERS[name].unlike}.")
        else:
            absent.append(name)
    print("\nNot alike:\n", *unlike, sep="\n")
    print("- all: Gantry averages the generator's weights, looks after finite numbers and writes to MLflow.")
    print(f"\n{STOOD_IN}")
    if absent:
        print(f"\nAbsent: {', '.join(absent)}.")


if __name__ == "__main__":
    main(sys.argv[1:])
