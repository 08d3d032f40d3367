"""What goes wrong in training a GAN, said while it happens: D has won, modes collapse, the generator stands still.

Each measure compares a run with itself or with its data, so that one threshold serves all losses, networks and data.
The thresholds lie well between what healthy runs of every variant on the digits reach and what runs made to fail do
(tests/faults/test_bad_numbers.py has both): the gradient of a healthy generator facing a discriminator that tells
all images apart was never under 0.04 of its largest, that of a lost one at most 0.0003; images of healthy ones were
at least 0.5 as different as real ones once they had begun to be, which took 700 steps at most, those of collapsed
ones at most 0.23; healthy weights moved by 0.002 or more in 50 steps, those of a generator that lost its gradient
still by 0.00001.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from gantry.data.images import to_float
from gantry.models.module import GAN
from gantry.models.sampling import normal
from gantry.runs.tracking.tracker import Tracker

APART = 0.99  # share of (real, generated) pairs that D ranks rightly, from which on they are perfectly apart
VANISHED = 1e-3  # of the largest gradient the generator has had
ALIKE = 0.3  # distance of generated images in that of real ones, below which they are alike
VARIED = 0.5  # the same, above which the generator has begun to make different images
START = 1000  # generator steps an untrained generator has for that
STILL = 1e-6  # change of weights between two checks, in their size
PART = 256  # numbers of each weight that are compared

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measures:
    """Of a GAN at one step.

    Attributes:
        real, fake: mean scores of the last discriminator step.
        apart: probability that D scores a real image higher than a generated one (the area under the ROC curve).
        gradient: norm of the generator's gradient, in the largest it has had.
        spread: mean distance of two generated images, in that of two real ones.
        nearest: mean distance of a generated image to the one next to it, in that of a real one to its own.
        change: of the generator's weights since the last check, in their size; NaN at the first.
    """

    real: float
    fake: float
    apart: float
    gradient: float
    spread: float
    nearest: float
    change: float

    @property
    def variety(self) -> float:
        """How different generated images are: few modes have many neighbours, whatever their distance is."""
        return min(self.spread, self.nearest)


class Health(Callback):
    """Warn, in the log and by a tag of the run, of what a GAN does not recover from, until it does.

    A warning wants two checks in turn to agree. Tags are `gantry.warning.<name>`:

    - `discriminator_won`: D tells all images apart, and the generator's gradient has vanished (Arjovsky and Bottou
      2017, Towards Principled Methods for Training GANs, theorem 2.4; Goodfellow et al. 2014, section 3).
      A critic that tells them apart and still leads the generator on is no reason to warn.
    - `mode_collapse`: generated images are alike that once were not, or after `START` steps still are.
    - `generator_frozen`: the generator's weights do not change.

    Training is not touched: networks are asked in eval mode, and the global random numbers put back. Only at a
    check is anything read from the device. One rank is enough, and says the same as every other.

    Args:
        tracker: receives the tags.
        every: generator steps between two checks.
        real: uint8 real images (N, C, H, W), of which generated ones are compared with as many.
    """

    def __init__(self, tracker: Tracker, every: int, real: Tensor) -> None:
        self.tracker, self.every, self.real = tracker, every, real
        self.gradient = self.peak = torch.zeros(())
        self.weights: Tensor | None = None  # a part of them, at the last check
        self.varied = False
        self.since: dict[str, int] = {}  # what was found, and at which check first
        self.warned: dict[str, str] = {}  # what was said of it

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Take everything to the device."""
        device = pl_module.device
        self.real, self.gradient, self.peak = self.real.to(device), self.gradient.to(device), self.peak.to(device)
        self.weights = None if self.weights is None else self.weights.to(device)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: GAN, optimizer: Optimizer) -> None:  # type: ignore[override]
        """Keep the norm of the generator's gradient of a check, and of first steps: D may win within fifty."""
        step = trainer.global_step + 1
        early = step & (step - 1) == 0  # 1, 2, 4, 8, ...
        if optimizer is trainer.optimizers[0] and (early or step % self.every == 0):
            self.gradient = get_total_norm([w.grad for w in pl_module.generator.parameters() if w.grad is not None])
            # Loss scaling leaves out a step whose gradient overflows.
            self.peak = torch.where(self.gradient.isfinite(), torch.maximum(self.peak, self.gradient), self.peak)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Check when due."""
        step = trainer.global_step
        if step % self.every == 0:
            measures = self.measure(pl_module, outputs)
            self.varied |= measures.variety > VARIED
            self._report(findings(measures, self.varied or step >= START), step)

    def state_dict(self) -> dict[str, Any]:
        """What the next check compares with, and what has been said."""
        names = ("gradient", "peak", "weights", "varied", "since", "warned")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up `state_dict`; what has been said since, before a rollback, no longer holds."""
        said = {name: self.since[name] for name in self.warned.keys() - state_dict["warned"].keys()}
        for name, since in said.items():
            text = f"from step {since} until training was rolled back: {self.warned[name]}"
            self.tracker.set_tags({f"gantry.warning.{name}": text})
        for name, value in state_dict.items():
            setattr(self, name, value)

    @torch.no_grad()
    def measure(self, gan: GAN, outputs: dict[str, Tensor]) -> Measures:
        """How the GAN is now, after a step with these scores; the next change is counted from here."""
        z = torch.from_numpy(normal(gan.seed, "health noise", (len(self.real), gan.z_dim))).to(gan.device)
        real = to_float(self.real)
        with untouched(gan.generator, gan.discriminator, gan.device):
            fake = gan.generator(z)
            real_scores, fake_scores = gan.discriminator(real), gan.discriminator(fake)
        margins = real_scores[:, None] - fake_scores
        weights = some_of(gan.generator)
        change = torch.full_like(self.peak, torch.nan)
        if self.weights is not None:
            change = (weights - self.weights).norm() / self.weights.norm()
        self.weights = weights
        values = [
            outputs["score/real"],
            outputs["score/fake"],
            (margins > 0).float().mean() + 0.5 * (margins == 0).float().mean(),
            self.gradient / self.peak,
            *(distances(fake) / distances(real)),
            change,
        ]
        return Measures(*torch.stack(values).tolist())

    def _report(self, found: dict[str, str], step: int) -> None:
        for name in [name for name in self.since if name not in found]:
            since = self.since.pop(name)
            if text := self.warned.pop(name, None):
                log.info("%s: no longer, at step %d", _words(name), step)
                self.tracker.set_tags({f"gantry.warning.{name}": f"from step {since} to {step}: {text}"})
        for name, text in found.items():
            since = self.since.setdefault(name, step)
            if since < step and name not in self.warned:
                self.warned[name] = text
                log.warning("%s since step %d: %s", _words(name), since, text)
                self.tracker.set_tags({f"gantry.warning.{name}": f"since step {since}: {text}"})


def findings(now: Measures, begun: bool) -> dict[str, str]:
    """What is wrong by these measures, each with the numbers that say so.

    Args:
        begun: whether the images of a healthy generator would differ by now.
    """
    found = {}
    if now.apart >= APART and now.gradient < VANISHED:
        scores = f"D(real) {now.real:.3g}, D(fake) {now.fake:.3g}"
        found["discriminator_won"] = f"{scores}, the generator's gradient fell to {now.gradient:.1g} of what it was"
    if begun and now.variety < ALIKE:
        found["mode_collapse"] = (
            f"the distance of two generated images is {now.spread:.2g} of that of two real ones, "
            f"of the nearest two {now.nearest:.2g}"
        )
    if now.change < STILL:
        found["generator_frozen"] = f"its weights changed by {now.change:.1g} of their size since the check before"
    return found


def distances(images: Tensor) -> Tensor:
    """Mean distance of two of the images (N, C, H, W), and mean distance of one to the nearest other; (2,)."""
    flat = images.flatten(1)
    # By matrix products the distance of images that are alike would be rounding.
    between = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    count = len(images)
    nearest = (between + torch.diag(torch.full_like(between[0], torch.inf))).amin(1).mean()
    return torch.stack([between.sum() / (count * (count - 1)), nearest])


def some_of(network: nn.Module) -> Tensor:
    """Every so many-th number of each of a network's weights, in one float32 vector."""
    parts = [weight.detach().flatten() for weight in network.parameters()]
    return torch.cat([part[:: -(-len(part) // PART)].float() for part in parts])


@contextmanager
def untouched(generator: nn.Module, discriminator: nn.Module, device: torch.device) -> Iterator[None]:
    """Meanwhile the networks are in eval mode; afterwards each of their modules, and the random numbers, as before."""
    modes = {module: module.training for network in (generator, discriminator) for module in network.modules()}
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            generator.eval()
            discriminator.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
