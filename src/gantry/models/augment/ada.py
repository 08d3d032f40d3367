"""Adaptive discriminator augmentation (Karras et al. 2020, Training GANs with Limited Data): ADA."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gantry.models.augment.colors import COLORS, CUTOUT, color_maps, colored, cut
from gantry.models.augment.geometry import BLIT, GEOMETRY, Placement, blit, geometry, resampled
from gantry.models.without_autocast import without_autocast

Pipeline = Literal["blit", "geom", "color", "cutout", "bg", "bgc", "r3gan"]
PIPELINES: dict[str, dict[str, float]] = {  # which parts, and by how much their probability is multiplied
    "blit": {"blit": 1.0},
    "geom": {"geom": 1.0},
    "color": {"color": 1.0},
    "cutout": {"cutout": 1.0},
    "bg": {"blit": 1.0, "geom": 1.0},
    "bgc": {"blit": 1.0, "geom": 1.0, "color": 1.0},
    "r3gan": {"blit": 1.0, "geom": 1.0, "color": 0.5, "cutout": 1.0},
}
WIDTHS = {"blit": BLIT, "geom": GEOMETRY, "color": COLORS, "cutout": CUTOUT}


class ADA(nn.Module):
    """Transforms images with probability p each, which follows how often D calls real images real.

    After every `interval` discriminator steps p grows by the images they saw / (1000 kimg) where the mean sign of D on
    real images was above `target`, and falls by it where it was below. As in the authors' code p is never below 0, but
    it may pass 1, where it does nothing more; StudioGAN stops it at 1. Signs are those of the turn with the loss; the
    authors count those of the turn of a lazy R1 too, and draw its augmentation anew. The paper's filter and noise,
    which its `bgc` leaves out, are absent.

    Args:
        pipeline: "bgc" as the paper: mirroring, quarter turns and shifts (blit), scaling and turning (geom), and
            colours (color). "r3gan" as Huang et al. 2024: colours with half the probability, and a cutout.
        p: the probability: the first one, or where `target` is null the only one or a schedule.
        target: the mean sign of D on real images to be kept, -1 to 1; null: p is not adapted.
        interval: discriminator steps between two changes of p, at least 1.
        kimg: thousands of images in which p grows by 1, above 0.
        differentiate: where R1 and R2 take their gradient: at the image "before" the augmentation, as in the authors'
            code, or "after" it.

    Raises:
        ValueError: there is no such pipeline, a number is out of its range, or `target` adapts a p that is scheduled.
    """

    signs: Tensor
    steps: Tensor

    def __init__(
        self,
        pipeline: Pipeline = "bgc",
        p: float = 0.0,
        target: float | None = 0.6,
        interval: int = 4,
        kimg: float = 500.0,
        differentiate: Literal["before", "after"] = "before",
    ) -> None:
        super().__init__()
        if pipeline not in PIPELINES:
            raise ValueError(f"pipeline: must be one of {', '.join(get_args(Pipeline))}, not {pipeline}")
        if isinstance(p, int | float) and not 0 <= p <= 1:
            raise ValueError(f"p: must be from 0 to 1, not {p}")
        if target is not None and not -1 <= target <= 1:
            raise ValueError(f"target: must be from -1 to 1, the mean of signs, or null, not {target}")
        if interval < 1 or kimg <= 0:
            raise ValueError(f"interval and kimg: must be at least 1 and above 0, not {interval} and {kimg}")
        self.parts, self.differentiate = PIPELINES[pipeline], differentiate
        self.target, self.interval, self.kimg = target, interval, kimg
        self.width = sum(WIDTHS[part] for part in self.parts)
        self.p: Any
        if not isinstance(p, int | float):
            if target is not None:
                raise ValueError("p: a schedule sets it, so target must be null, which adapts it otherwise")
            self.p = p
        elif target is None:
            self.register_buffer("p", torch.tensor(float(p)), persistent=False)  # the config's, also after a resume
        else:
            self.register_buffer("p", torch.tensor(float(p)))
            self.register_buffer("signs", torch.tensor(0.0))
            self.register_buffer("steps", torch.tensor(0.0))

    def forward(self, images: Tensor, uniform: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] and (B, width) in [0, 1) to (B, C, H, W); colours may leave [-1, 1].

        Computed in float32. Raises ValueError where colours are changed of images with neither 1 nor 3 channels.
        """
        with without_autocast(images.device):
            return self._transformed(images.float(), uniform).to(images.dtype)

    def _transformed(self, images: Tensor, uniform: Tensor) -> Tensor:
        drawn = dict(zip(self.parts, uniform.split([WIDTHS[part] for part in self.parts], 1), strict=True))
        p = {part: share * self.p for part, share in self.parts.items()}
        if "blit" in drawn or "geom" in drawn:
            placement = Placement(len(images), images.device)
            for part, place in (("blit", blit), ("geom", geometry)):
                if part in drawn:
                    place(placement, drawn[part], p[part], *images.shape[2:])
            images = resampled(images, placement)
        if "color" in drawn:
            images = colored(images, color_maps(drawn["color"], p["color"]))
        if "cutout" in drawn:
            images = cut(images, drawn["cutout"], p["cutout"])
        return images

    @torch.no_grad()
    def observe(self, real_signs_mean: Tensor, batch: int) -> None:
        """Count a discriminator step, and adapt p after each `interval` of them; does not synchronise.

        Args:
            real_signs_mean: the mean sign of D's logits of the real images, over all ranks, ().
            batch: the images of the step on all ranks.
        """
        if self.target is None:
            return
        signs, steps = self.signs + real_signs_mean, self.steps + 1
        due = steps >= self.interval
        change = torch.sign(signs / steps - self.target) * (batch * steps / (self.kimg * 1000))
        self.p.copy_(torch.where(due, (self.p + change).clamp(min=0), self.p))
        self.signs.copy_(torch.where(due, torch.zeros_like(signs), signs))
        self.steps.copy_(torch.where(due, torch.zeros_like(steps), steps))

    def logged(self) -> dict[str, Tensor]:
        """Return p for the record; nothing where a schedule sets it, which is recorded as one."""
        return {"augment/p": self.p.detach().clone()} if isinstance(self.p, Tensor) else {}
