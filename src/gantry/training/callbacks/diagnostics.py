"""Warns of failures in GAN training: the discriminator has won, modes collapse, the generator stands still.

Each measure compares a run with itself or with its data, so that one threshold serves all losses, networks and data.
The thresholds lie well between the values of healthy runs of every variant on the digits and those of runs made to
fail (tests/faults/test_bad_numbers.py has both): the gradient of a healthy generator against a discriminator that
separates all images was never below 0.04 of its largest, that of a failed one at most 0.0003; the variety of healthy
images was at least 0.5 of that of real ones after at most 700 steps, that of collapsed ones at most 0.23; healthy
weights changed by 0.002 or more of their norm in 50 steps, those of a generator without gradient by only 0.00001.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from gantry.data.images import to_float
from gantry.models.module import GAN
from gantry.models.play import logits_of
from gantry.models.sampling import at_a_time, normal
from gantry.runs.tracking.tracker import Tracker

APART = 0.99  # share of (real, generated) pairs that D ranks correctly, from which they count as separated
VANISHED = 1e-3  # gradient norm relative to its maximum, below which it has vanished
ALIKE = 0.3  # variety of generated images relative to real ones, below which they have collapsed
VARIED = 0.5  # the same, above which the generator has begun to make different images
START = 1000  # generator steps an untrained generator has for that
STILL = 1e-6  # change of weights between two checks relative to their norm, below which they are frozen
PART = 256  # most entries of each weight that are compared

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measures:
    """Diagnostic measures of a GAN at one step.

    Attributes:
        real, fake: mean scores of the last discriminator step.
        apart: probability that D scores a real image higher than a generated one (the area under the ROC curve).
        gradient: norm of the generator's gradient, relative to its maximum so far.
        spread: mean distance of two generated images, relative to that of two real ones.
        nearest: mean distance of a generated image to its nearest neighbour, relative to that of a real one.
        change: norm of the change of the generator's weights since the last check, relative to theirs; NaN at the
            first check.
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
        """Return the variety of generated images, the lesser of both distances, since few modes may be far apart."""
        return min(self.spread, self.nearest)


class Health(Callback):
    """Warns, in the log and by a tag of the run, of failures from which a GAN rarely recovers, until it does.

    A warning requires two consecutive checks to agree. Tags are `gantry.warning.<name>`:

    - `discriminator_won`: D separates all images, and the generator's gradient has vanished (Arjovsky and Bottou
      2017, Towards Principled Methods for Training GANs, theorem 2.4; Goodfellow et al. 2014, section 3).
      A critic that separates them while the generator still has a gradient is no reason to warn.
    - `mode_collapse`: generated images are alike after they were not, or still are after `START` steps.
    - `generator_frozen`: the generator's weights do not change.

    Training is unaffected: networks run in eval mode, and the state of the global random generators is restored.
    Values are read from the device only at a check. One rank suffices, since all ranks would report the same.

    Args:
        tracker: receives the tags.
        every: generator steps between two checks.
        real: uint8 real images (N, C, H, W), compared with as many generated ones.
        labels: of the real images, int64 (N,), and asked of the generated ones; None where the data has none.
    """

    def __init__(self, tracker: Tracker, every: int, real: Tensor, labels: Tensor | None = None) -> None:
        self.tracker, self.every, self.real, self.labels = tracker, every, real, labels
        self.gradient = self.peak = torch.zeros(())
        self.weights: Tensor | None = None  # a sample of them, at the last check
        self.varied = False
        self.since: dict[str, int] = {}  # problems, and the step of the check that first found them
        self.warned: dict[str, str] = {}  # problems warned of, and the text of the warning

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Move the tensors to the device, and ask for norms of gradients."""
        pl_module.ask_for_norms(self.wants_norm)
        device = pl_module.device
        self.real, self.gradient, self.peak = self.real.to(device), self.gradient.to(device), self.peak.to(device)
        self.weights = None if self.weights is None else self.weights.to(device)

    def wants_norm(self, gan: GAN, player: str, step: int) -> bool:
        """Return True for the generator at checks and at early steps, since D may win within fifty."""
        early = step & (step - 1) == 0  # 1, 2, 4, 8, ...
        return player == "generator" and (early or step % self.every == 0)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Take the norm of the generator's gradient, and check when due."""
        step = trainer.global_step
        if (norm := pl_module.gradient_norms.get("generator")) is not None:
            self.gradient = norm
            # Loss scaling skips a step whose gradient overflows.
            self.peak = torch.where(norm.isfinite(), torch.maximum(self.peak, norm), self.peak)
        if step % self.every == 0:
            measures = self.measure(pl_module, outputs)
            self.varied |= measures.variety > VARIED
            self._report(findings(measures, self.varied or step >= START), step)

    def state_dict(self) -> dict[str, Any]:
        """Return the values the next check compares with, and the warnings in force."""
        names = ("gradient", "peak", "weights", "varied", "since", "warned")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint; warnings given after it, before a rollback, are closed."""
        closed = {name: self.since[name] for name in self.warned.keys() - state_dict["warned"].keys()}
        for name, since in closed.items():
            text = f"from step {since} until training was rolled back: {self.warned[name]}"
            self.tracker.set_tags({f"gantry.warning.{name}": text})
        for name, value in state_dict.items():
            setattr(self, name, value)

    @torch.no_grad()
    def measure(self, gan: GAN, outputs: dict[str, Tensor]) -> Measures:
        """Measure the GAN after a step with the scores in `outputs`; the next `change` is relative to this call."""
        z = torch.from_numpy(normal(gan.seed, "health noise", (len(self.real), gan.z_dim))).to(gan.device)
        real = gan.grown.shown(to_float(self.real))
        with evaluation_mode(gan.generator, gan.discriminator, gan.device):
            count = at_a_time(real[0].numel(), len(real))
            asked = None if self.labels is None else self.labels.to(gan.device)
            fake = torch.cat([generated(gan, *part[:2]) for part in parts(count, z, asked)])
            codes = judged_codes(gan, real), judged_codes(gan, fake, z)
            real_scores, fake_scores = (
                torch.cat([judged(gan, *part) for part in parts(count, images, asked, own)])
                for images, own in zip((real, fake), codes, strict=True)
            )
        margins = real_scores[:, None] - fake_scores
        weights = sample_weights(gan.generator)
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

    def _report(self, problems: dict[str, str], step: int) -> None:
        for name in [name for name in self.since if name not in problems]:
            since = self.since.pop(name)
            if text := self.warned.pop(name, None):
                log.info("%s: no longer, at step %d", _words(name), step)
                self.tracker.set_tags({f"gantry.warning.{name}": f"from step {since} to {step}: {text}"})
        for name, text in problems.items():
            since = self.since.setdefault(name, step)
            if since < step and name not in self.warned:
                self.warned[name] = text
                log.warning("%s since step %d: %s", _words(name), since, text)
                self.tracker.set_tags({f"gantry.warning.{name}": f"since step {since}: {text}"})


def generated(gan: GAN, z: Tensor, labels: Tensor | None) -> Tensor:
    """Return the generator's images (B, C, H, W) of latents, and of labels where it takes some."""
    images: Tensor = gan.generator(z, **gan.players.further("generator", labels=labels))
    return images


def judged(gan: GAN, images: Tensor, labels: Tensor | None, codes: Tensor | None = None) -> Tensor:
    """Return the discriminator's logits (B,) of images, and of labels and codes where it takes some."""
    return logits_of(gan.discriminator(images, **gan.players.further("discriminator", labels=labels, codes=codes)))


def judged_codes(gan: GAN, images: Tensor, z: Tensor | None = None) -> Tensor | None:
    """Return the codes (B, z_dim) that go with real images, or with those of latents; None where D takes none."""
    players = gan.players
    if "codes" not in players.takes["discriminator"] or players.encode is None or players.code is None:
        return None
    return players.encode(images) if z is None else players.code(z)


def parts(
    count: int, values: Tensor, labels: Tensor | None, codes: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Split values, their labels and their codes into parts of so many."""
    for start in range(0, len(values), count):
        part = slice(start, start + count)
        yield values[part], None if labels is None else labels[part], None if codes is None else codes[part]


def findings(now: Measures, begun: bool) -> dict[str, str]:
    """Return the problems that the measures show, by name, each with its numbers in words.

    Args:
        begun: whether the images of a healthy generator would differ by now.
    """
    problems = {}
    if now.apart >= APART and now.gradient < VANISHED:
        scores = f"D(real) {now.real:.3g}, D(fake) {now.fake:.3g}"
        problems["discriminator_won"] = f"{scores}, the generator's gradient fell to {now.gradient:.1g} of what it was"
    if begun and now.variety < ALIKE:
        problems["mode_collapse"] = (
            f"the distance of two generated images is {now.spread:.2g} of that of two real ones, "
            f"of the nearest two {now.nearest:.2g}"
        )
    if now.change < STILL:
        problems["generator_frozen"] = f"its weights changed by {now.change:.1g} of their size since the check before"
    return problems


def distances(images: Tensor) -> Tensor:
    """Return the mean distance of two of the images (N, C, H, W), and of one to its nearest neighbour; (2,)."""
    flat = images.flatten(1)
    # Matrix products would give only rounding errors for similar images.
    between = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    count = len(images)
    nearest = (between + torch.diag(torch.full_like(between[0], torch.inf))).amin(1).mean()
    return torch.stack([between.sum() / (count * (count - 1)), nearest])


def sample_weights(network: nn.Module) -> Tensor:
    """Return evenly spaced entries of each of a network's weights, at most `PART`, in one float32 vector."""
    parts = [weight.detach().flatten() for weight in network.parameters()]
    return torch.cat([part[:: -(-len(part) // PART)].float() for part in parts])


@contextmanager
def evaluation_mode(generator: nn.Module, discriminator: nn.Module, device: torch.device) -> Iterator[None]:
    """Set both networks to eval mode; restore each module's mode and the random generators afterwards."""
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
