"""What the parts of `gpu.py` share: configs, random images, trainings with and without graphs, verdicts.

On a machine without a GPU all of it runs on the CPU with tiny networks, and in place of a CUDA graph there is a list of
the operations that a step ran (`tests/models/recorded.py`), to see that everything runs.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from gantry.core.cuda_graph import Capture, CudaGraphs
from gantry.core.determinism import repeatable
from gantry.core.randomness import draws
from gantry.data.batches import Batches
from gantry.data.images import ImageSet
from gantry.data.resident import Resident
from gantry.models.fixed_step import FixedStep
from gantry.models.graphed_step import GraphedStep
from gantry.models.module import GAN
from gantry.training.callbacks.diagnostics import Health
from gantry.training.callbacks.divergence import Guard
from gantry.training.callbacks.logging import TrainingLog
from gantry.training.lightning_overrides import (
    NoProfiler,
    know_the_arguments_of_a_step,
    leave_out_empty_hooks,
    leave_signals,
    note_hooks_quickly,
)
from gantry.training.model import build_model
from gantry.training.stopwatch import Clock

ROOT = Path(__file__).parents[1]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
LARGE = ("sagan", "biggan", "biggan_full", "stylegan2", "r3gan_full")
VARIANTS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml") if path.stem not in ("base", *LARGE))
VARIANTS += LARGE
# Those whose networks are large even where they are as narrow as they can be.
SMALL = {
    "reacgan": ["model.discriminator.embedding_dim=4"],
    "r3gan_full": ["model.generator.blocks=1", "model.discriminator.blocks=1"],
    "stylegan2": ["model.z_dim=8", "model.generator.w_dim=8"],
}
GUARD, LOG, SHOWN = 50, 50, 64  # steps of the guard and the log, images of the health check, as a run has them
Change = Callable[[GAN], None]


def composed(variant: str, *overrides: str, size: int = 32, batch: int = 32) -> DictConfig:
    """Return the config of a run; on a CPU with networks as narrow as they can be."""
    # Gantry's own launcher, which is not used, needs rich.
    paths = ["paths.root=/none", "paths.cache=/none", "tracking=none", "data=digits", "hydra/launcher=basic"]
    narrow = [] if ON_GPU or variant == "vanilla" else ["model.generator.width=4", "model.discriminator.width=4"]
    narrow += [] if ON_GPU else SMALL.get(variant, [])
    given = [f"model={variant}", f"data.image_size={size}", f"batch_size={batch}", *paths, *narrow, *overrides]
    # The choice of networks comes before their widths.
    given.sort(key=lambda override: not override.startswith("model/"))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", given)


def random_images(size: int, count: int = 2048) -> ImageSet:
    """Return a data set of random images (3, size, size) of ten classes."""
    pixels = draws(0, 0, "benchmark images").integers(0, 256, (count, 3, size, size), dtype="uint8")
    labels = draws(0, 0, "benchmark labels").permutation(count) % 10
    classes = tuple(f"class {number}" for number in range(10))
    return ImageSet("random", pixels, labels, classes, "all", "drawn", "0" * 64, flip=False)


def capture_on(device: torch.device) -> Capture:
    """Return what captures steps: as CUDA graphs, on a CPU as lists of operations."""
    if device.type == "cuda":
        return CudaGraphs(device)
    if (folder := str(ROOT / "tests" / "models")) not in sys.path:
        sys.path.append(folder)
    from recorded import Recorded

    return Recorded(device)


class Quiet:
    """A tracker that keeps nothing."""

    def set_tags(self, tags: Any) -> None:
        """Keep nothing."""

    def log_metrics(self, metrics: Any, step: int) -> None:
        """Keep nothing."""


class Looks(Callback):
    """Keeps what replays the steps, and has them called instead of replayed where so asked."""

    def __init__(self, called: bool) -> None:
        self.called, self.graphed = called, None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Before the first step, when the training has begun."""
        if self.graphed is None and pl_module.fixed is not None:
            self.graphed = pl_module.fixed.graphed
            if self.called:
                self.graphed.eager = "asked"


@dataclass
class Run:
    """A training through Lightning with the callbacks that are at work in every step.

    Args:
        cfg: the run's config.
        data: its images.
        steps: at most.
        how: "replayed", "called" (the function of the replays, each step called) or "eager" (`cuda_graph=false`).
        resident: whether the images are on the device.
        change: applied to the GAN before it trains.
        callbacks: further ones; they come first.
        capture: makes graphs.
    """

    cfg: DictConfig
    data: ImageSet
    steps: int
    how: str = "replayed"
    resident: bool = True
    change: Change | None = None
    callbacks: Sequence[Callback] = ()
    capture: Callable[[torch.device], Capture] = capture_on
    precision: str = "32-true"
    start: int = 0
    looks: Looks = field(init=False)
    records: list[dict[str, Tensor]] = field(init=False, default_factory=list)
    before: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.gan, _ = build_model(self.cfg, self.data)
        if self.change is not None:
            self.change(self.gan)
        self.before = {name: value.clone() for name, value in self.gan.state_dict().items()}
        images = Resident(self.data.images, DEVICE) if self.resident else None
        self.gan.fixed = FixedStep(None if self.how == "eager" else self.capture, images)
        self.looks = Looks(called=self.how == "called")
        observing: list[Callback] = [
            *self.callbacks,
            self.looks,
            Guard(GUARD),
            TrainingLog(Quiet(), Clock(), LOG),  # type: ignore[arg-type]
            Health(Quiet(), 5 * GUARD, torch.from_numpy(self.data.images[:SHOWN].copy())),  # type: ignore[arg-type]
        ]
        leave_out_empty_hooks(observing)
        note_hooks_quickly()
        self.trainer = trainer(self.steps, self.precision, observing)

    def train(self, checkpoint: Path | None = None) -> None:
        """Train, with whatever algorithms cuDNN is told to take."""
        gan = self.gan
        count = gan.order.real_batches
        batches = Batches(self.data, gan.batch_size, count, gan.seed, start=self.start, indices=self.resident)
        self.trainer.fit(gan, batches, ckpt_path=checkpoint, weights_only=True if checkpoint else None)

    def fit(self, checkpoint: Path | None = None) -> "Run":
        """Train with cuDNN's deterministic algorithms, as `train.py` does, and keep the records of all steps."""
        one = self.gan.training_step
        self.gan.training_step = lambda *batch: (self.records.append(dict(one(*batch))), self.records[-1])[1]
        with repeatable():
            self.train(checkpoint)
        return self

    @property
    def graphed(self) -> GraphedStep | None:
        """What has replayed the steps."""
        return self.looks.graphed

    def values(self) -> dict[str, Tensor]:
        """All that the training leaves, on the CPU: weights, buffers, averages, optimizers' states, records."""
        left = {name: value.cpu() for name, value in self.gan.state_dict().items()}
        for number, optimizer in enumerate(self.trainer.optimizers):
            for weight, state in optimizer.state_dict()["state"].items():
                left |= {f"optimizer {number} {weight} {name}": torch.as_tensor(v).cpu() for name, v in state.items()}
        for step, record in enumerate(self.records, self.start):
            left |= {f"step {step} {name}": value.cpu() for name, value in record.items()}
        return left


def trainer(steps: int, precision: str, callbacks: Sequence[Callback]) -> Trainer:
    """Return Lightning's Trainer as `train.py` has it."""
    made = Trainer(
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="gpu" if ON_GPU else "cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        profiler=NoProfiler(),
        callbacks=list(callbacks),
    )
    leave_signals(made)
    know_the_arguments_of_a_step(made)
    return made


def apart(one: Run, other: Run) -> str:
    """Say whether two trainings have left the same, to the bit, or how far their weights are apart."""
    mine, theirs = one.values(), other.values()
    if mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine):
        return "equal"
    names = [name for name, value in one.before.items() if value.is_floating_point()]
    difference = max(float((mine[name] - theirs[name]).abs().max()) for name in names)
    change = max(float((mine[name] - one.before[name]).abs().max()) for name in names)
    which = next((name for name in mine if name not in theirs or not torch.equal(mine[name], theirs[name])), "")
    return f"weights {difference / change:.1e} of their change apart, first {which}" if change else "nothing has moved"


def finite(run: Run) -> bool:
    """Whether all that a training leaves is finite."""
    return all(bool(value.isfinite().all()) for value in run.values().values())


class Report:
    """Prints as it goes, keeps the verdicts, and knows when the time of a part is over.

    Attributes:
        verdicts: what, what was asked, what was measured, and met or missed.
        end: when the part's time is over, on `time.monotonic`'s clock.
    """

    def __init__(self) -> None:
        self.verdicts: list[tuple[str, str, str, str]] = []
        self.end = float("inf")

    def say(self, *lines: str) -> None:
        """Print lines at once."""
        for line in lines:
            print(line, flush=True)

    def head(self, *columns: str) -> None:
        """Print the head of a table."""
        self.say(f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns))

    def row(self, *cells: object) -> None:
        """Print a row of a table."""
        self.say(f"| {' | '.join(map(str, cells))} |")

    def verdict(self, what: str, asked: str, measured: str, met: bool | None) -> None:
        """Keep a verdict for the last table; None: on this device it cannot be given."""
        self.verdicts.append((what, asked, measured, {True: "met", False: "missed", None: "no verdict here"}[met]))

    def late(self, what: str) -> bool:
        """Whether the part's time is over, in which case a line says what is left out."""
        if time.monotonic() > self.end:
            self.say(f"(left out, since this part's time is over: {what})")
            return True
        return False

    def tried(self, what: str, call: Callable[[], Any]) -> Any:
        """Return what a call returns; where it fails, print the error as a row, and return None."""
        try:
            return call()
        except Exception as error:  # one case must not end the others
            text = str(error).splitlines()[0] if str(error) else ""
            self.row(what, f"failed: {type(error).__name__}: {text}")
            self.verdict(what, "runs", type(error).__name__, False)
            return None
