"""Logs how the discriminator judges real images that it was not trained on, beside those that it was trained on."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from gantry.core.randomness import draws
from gantry.data.images import ImageSet, to_float
from gantry.models.module import GAN
from gantry.models.sampling import at_a_time, normal
from gantry.models.schedules import Progress, settled
from gantry.runs.tracking.tracker import Tracker
from gantry.training.callbacks.diagnostics import evaluation_mode, generated, judged, judged_codes, parts
from gantry.training.stopwatch import Clock

MOST = 512  # images of each kind


class Overfitting(Callback):
    """Logs the discriminator's overfitting at each evaluation but that of the untrained networks.

    It judges as many training images, held-out real images and images of the generator, in eval mode, through the
    augmentation that it is trained with where there is one. Training is unaffected, as by
    `gantry.training.callbacks.diagnostics.Health`. Logged are `score/training`, `score/held_out` and
    `score/generated`, their mean scores, and what `measures` returns, under `overfitting/`.

    Args:
        tracker: receives the values.
        clock: paused meanwhile.
        every: generator steps between two evaluations.
        training: the images that the discriminator is trained on.
        held_out: real images of the same data that are not among them.
    """

    def __init__(self, tracker: Tracker, clock: Clock, every: int, training: ImageSet, held_out: ImageSet) -> None:
        self.tracker, self.clock, self.every = tracker, clock, every
        self.count = min(MOST, len(training), len(held_out))
        self.known, self.unseen = training.part(self.count), held_out.part(self.count)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure when due."""
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps:
            with self.clock.stopped(), torch.autocast(pl_module.device.type, enabled=False):
                self.tracker.log_metrics(self.measure(pl_module, step), step)

    @torch.no_grad()
    def measure(self, gan: GAN, step: int) -> dict[str, float]:
        """Return what is logged, of the networks after `step` generator steps."""
        z = torch.from_numpy(normal(gan.seed, "overfitting noise", (self.count, gan.z_dim))).to(gan.device)
        asked = _labels(self.known, gan.device)
        with evaluation_mode(gan.generator, gan.discriminator, gan.device):
            size = at_a_time(self.known.images[0].size, self.count)
            fake = torch.cat([generated(gan, *part[:2]) for part in parts(size, z, asked)])
            known = self._scores(gan, step, _images(self.known, gan), asked)
            unseen = self._scores(gan, step, _images(self.unseen, gan), _labels(self.unseen, gan.device))
            made = self._scores(gan, step, fake, asked, z)
        means = torch.stack([scores.mean() for scores in (known, unseen, made)]).tolist()
        logged = dict(zip(("score/training", "score/held_out", "score/generated"), means, strict=True))
        return logged | {f"overfitting/{name}": value for name, value in measures(known, unseen, made).items()}

    def _scores(self, gan: GAN, step: int, images: Tensor, labels: Tensor | None, z: Tensor | None = None) -> Tensor:
        """Return the discriminator's scores (n,) of images in [-1, 1], real ones or those of latents."""
        size = at_a_time(images[0].numel(), len(images))
        codes = judged_codes(gan, images, z)
        return torch.cat([judged(gan, *part) for part in self._viewed(gan, step, size, images, labels, codes)])

    def _viewed(
        self, gan: GAN, step: int, size: int, images: Tensor, labels: Tensor | None, codes: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """Yield the images as the discriminator is shown them, so many at a time, with their labels and codes."""
        if (view := gan.players.view) is None:
            yield from parts(size, images, labels, codes)
            return
        progress = Progress(step, step * gan.batch_size)
        values = {place: torch.tensor(value) for place, value in gan.scheduled.values(progress).items()}
        now = settled(view, "augment", {place: value.to(gan.device) for place, value in values.items()})
        drawn = draws(gan.seed, step, "overfitting view").random((len(images), view.width), dtype=np.float32)
        uniform = torch.from_numpy(drawn).to(gan.device)
        shown = zip(parts(size, images, labels, codes), parts(size, uniform, None), strict=True)
        for (part, asked, own), (numbers, *_) in shown:
            yield now(part, numbers), asked, own


def measures(training: Tensor, held_out: Tensor, fake: Tensor) -> dict[str, float]:
    """Return how far the discriminator overfits, from its scores of images of three kinds, each (n,).

    Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, equation 1, where 0 means no
    overfitting and 1 complete overfitting:

        r_v = (E[D_training] - E[D_held_out]) / (E[D_training] - E[D_generated])
        r_t = E[sign(D_training)]

    They take both over four batches while training; here they are over the same images each time, after a step. r_t
    says something where 0 is the score of an image as likely real as generated, as with the non-saturating loss.

    Returns:
        `r_v` and `r_t`; r_v is NaN where training and generated images have one mean. `auc`: the probability, 0 to 1,
        that a training image has a higher score than a held-out one, ties counting half (the area under the ROC
        curve): 0.5 without overfitting, whatever the scale of the scores.
    """
    gap = training.mean() - fake.mean()
    margins = training[:, None] - held_out
    values = {
        "r_v": torch.where(gap == 0, torch.nan, (training.mean() - held_out.mean()) / gap),
        "r_t": training.sign().mean(),
        "auc": (margins > 0).float().mean() + 0.5 * (margins == 0).float().mean(),
    }
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _images(data: ImageSet, gan: GAN) -> Tensor:
    return gan.grown.shown(to_float(torch.from_numpy(np.array(data.images)).to(gan.device)))


def _labels(data: ImageSet, device: torch.device) -> Tensor | None:
    return None if data.labels is None else torch.from_numpy(data.labels).to(device)
