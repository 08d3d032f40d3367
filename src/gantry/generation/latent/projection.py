"""Projects images onto a generator's latent space, and fills in damaged regions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gantry.core.errors import UserError
from gantry.core.randomness import draws
from gantry.data.images import quantise, to_float
from gantry.models.inference import Inference

POOL = 2048  # samples from which the starts of an image's search are chosen
PRIOR = 0.003  # weight of the latent's mean square beside the image's mean squared error
CONSENSUS = 0.1  # weight of a damaged pixel's expected value beside a known pixel's value
RATE = 0.1  # Adam's, falling to 0
SHORT = 0.2  # share of the steps in which all starts take part
LEAST_STEPS = 5
AT_ONCE = 2**20  # values of the images computed at a time; a DCGAN's layers hold some 50 times as many

Progress = Callable[[float], object]


@dataclass(frozen=True)
class Projection:
    """Latents of N images, and the images that the generator makes of them.

    Attributes:
        latents: float32 (N, z_dim), on the CPU like the rest.
        images: uint8 (N, C, H, W), the generator's for them.
        repaired: uint8 (N, C, H, W), the target with the generator's pixels where it was damaged, and every other pixel
            as given; None without a mask.
        errors: float32 (N,), root mean squared difference of image and target over the known pixels, in grey levels
            0 to 255.
        labels: int64 (N,), of the latents; None where the generator takes none.
    """

    latents: Tensor
    images: Tensor
    repaired: Tensor | None
    errors: Tensor
    labels: Tensor | None = None


def project(
    network: nn.Module,
    z_dim: int,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    seed: int = 0,
    steps: int = 300,
    starts: int = 16,
    labels: Sequence[int] | None = None,
    progress: Progress | None = None,
    encoder: bool = True,
) -> Projection:
    """Find the latents whose images are nearest to the targets; with a mask, fill in the targets' damaged regions.

    Minimises, by Adam, the mean squared error over the known pixels plus a normal prior on the latent (Bora et al.
    2017, Compressed Sensing using Generative Models), from the nearest of a pool of samples. All starts take
    part in the first fifth of the steps, the best one alone in the rest.

    With a mask this is the inpainting of Yeh et al. 2017, Semantic Image Inpainting with Deep Generative Models, with
    three differences. The prior is on the latent, since an exported generator has no discriminator. Known pixels have
    equal weights, not weights by the damaged ones near them (equation 3). And since many images agree with the known
    pixels, the starts' mean image after the first fifth estimates the expected values of the damaged pixels, towards
    which the rest of the search is weakly regularised. benchmarks/repair-cpu.md has the effect of each on the error.

    Args:
        network: in eval mode, on its device, which does the computation; maps float32 (B, z_dim), and labels int64 (B,)
            where it takes them, to (B, C, H, W) in [-1, 1].
        z_dim: length of a latent.
        target: uint8 (N, C, H, W), N at least 1.
        mask: bool (N, 1, H, W), or (1, 1, H, W) for all alike: True where the image is damaged, to be filled in. The
            target's values there are ignored.
        seed: of the pool. The same seed and call give the same result on a CPU.
        steps: of the search, at least 5.
        starts: of each image, 1 to 2048.
        labels: where the network takes labels, those to search among: the pool's samples have them in turn, and each
            start keeps its own.
        progress: called with the finished share of the work, up to 1.
        encoder: where the network has an encoder, takes no labels, and there is no mask, begin at the image's code or
            at the nearest sample of the pool, whichever is nearer to the image: one start, which has all steps.

    Returns:
        The projection; up to rounding, that of an image does not depend on the other images.

    Raises:
        UserError: target and mask are not as above, not of the generator's image size, or a mask is empty or full.
    """
    _check(network, z_dim, target, mask, steps, starts, None if labels is None else torch.tensor(labels[:1]))
    device = next(network.parameters()).device
    damaged = torch.zeros(1, 1, 1, 1, dtype=torch.bool) if mask is None else mask
    damaged = damaged.expand(len(target), 1, *target.shape[2:])
    z = torch.from_numpy(draws(seed, 0, "projection").standard_normal((POOL, z_dim), dtype="float32")).to(device)
    of = (
        None if labels is None else torch.tensor(labels, device=device)[torch.arange(POOL, device=device) % len(labels)]
    )
    pool = Latents(z, of)
    coded = network if encoder and mask is None and labels is None and isinstance(network, Inference) else None
    starts = starts if coded is None else 1
    short = max(1, round(SHORT * steps))
    search = _Search(network, len(target) * (starts * short + steps - short), progress, coded)
    together = max(1, AT_ONCE // (starts * target[0].numel()))
    parts = zip(target.split(together), damaged.split(together), strict=True)
    found = [search.project(one.to(device), hole.to(device), pool, starts, short, steps - short) for one, hole in parts]
    latents = Latents(torch.cat([one.z for one in found]), _joined([one.labels for one in found]))
    return _projection(latents, quantise(search.images(latents)).cpu(), target, damaged, mask is not None)


class Latents(NamedTuple):
    """Latents float32 (B, z_dim), and their labels int64 (B,), None where the network takes none."""

    z: Tensor
    labels: Tensor | None

    def chosen(self, which: Tensor) -> "Latents":
        """Return those with these numbers, int64 (k,)."""
        return Latents(self.z[which], None if self.labels is None else self.labels[which])

    def split(self, size: int) -> list["Latents"]:
        """Return parts of at most `size`."""
        numbers = torch.arange(len(self.z), device=self.z.device)
        return [self.chosen(part) for part in numbers.split(size)]


def _joined(labels: list[Tensor | None]) -> Tensor | None:
    held = [one for one in labels if one is not None]
    return torch.cat(held) if held else None


@dataclass
class _Search:
    """Optimises latents towards images, each independently of the others.

    Attributes:
        network: see `project`.
        work: total number of steps, counted for each latent.
        progress: see `project`.
        coded: the network, where a search begins at the image's code.
        done: of `work`.
    """

    network: nn.Module
    work: int
    progress: Progress | None
    coded: Inference | None = None
    done: int = 0

    def project(self, target: Tensor, hole: Tensor, pool: Latents, starts: int, short: int, rest: int) -> Latents:
        """Return N latents of uint8 images (N, C, H, W), damaged in the holes (N, 1, H, W).

        All starts are optimised for `short` steps, the best of each image for the `rest`.
        """
        wanted = to_float(target)
        weight = 1 / ((~hole).sum((1, 2, 3), keepdim=True) * target.shape[1])
        tried = self.nearest(pool, wanted, weight * ~hole, starts)
        if self.coded is not None:
            tried = self.nearer(self.coded, tried, wanted)
        tried = self.descend(tried, _repeat(wanted, starts), _repeat(weight * ~hole, starts), short)
        made = self.images(tried).unflatten(0, (-1, starts))
        # Without damage this only chooses the best start.
        expected = torch.where(hole, made.mean(1), wanted)
        weights = torch.where(hole, CONSENSUS * weight, weight)
        errors = ((made - expected[:, None]).square() * weights[:, None]).flatten(2).sum(2)
        best = torch.arange(len(target), device=errors.device) * starts + errors.argmin(1)
        return self.descend(tried.chosen(best), expected, weights, rest)

    def generate(self, latents: Latents) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1]."""
        return self.network(*(value for value in latents if value is not None))

    def images(self, latents: Latents) -> Tensor:
        """Return images (B, C, H, W) of latents, computed in chunks to bound the memory."""
        with torch.no_grad():
            first = self.generate(Latents(latents.z[:1], None if latents.labels is None else latents.labels[:1]))
            return torch.cat([self.generate(part) for part in latents.split(max(1, AT_ONCE // first.numel()))])

    def nearest(self, pool: Latents, wanted: Tensor, weights: Tensor, count: int) -> Latents:
        """Return the `count` latents of the pool with the least error to each image (N, C, H, W): N count of them."""
        weighed = weights.expand_as(wanted).flatten(1)
        errors = []
        for part in pool.split(max(1, AT_ONCE // wanted[0].numel())):
            made = self.images(part).flatten(1)
            # The squared difference, without the target's own square, which is the same for all.
            errors.append(weighed @ made.square().T - 2 * (weighed * wanted.flatten(1)) @ made.T)
        return pool.chosen(torch.cat(errors, 1).topk(count, largest=False).indices.flatten())

    def nearer(self, coded: Inference, found: Latents, wanted: Tensor) -> Latents:
        """Return for each image (N, C, H, W) the latent of its code, or the one found, whichever is nearer to it."""
        with torch.no_grad():
            of_codes = Latents(coded.latent(coded.encode(wanted)), None)
        errors = [(self.images(one) - wanted).square().flatten(1).sum(1) for one in (of_codes, found)]
        return Latents(torch.where((errors[0] < errors[1])[:, None], of_codes.z, found.z), None)

    def descend(self, start: Latents, wanted: Tensor, weights: Tensor, steps: int) -> Latents:
        """Return latents after `steps` steps of Adam towards their images; their labels stay."""
        z = start.z.clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=RATE)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
            with torch.enable_grad():
                made = self.generate(Latents(z, start.labels))
                errors = ((made - wanted).square() * weights).sum() + PRIOR * z.square().mean(1).sum()
            (z.grad,) = torch.autograd.grad(errors, z)
            optimizer.step()
            self.done += len(z)
            if self.progress is not None:
                self.progress(self.done / self.work)
        return Latents(z.detach(), start.labels)


def _repeat(images: Tensor, starts: int) -> Tensor:
    return images.repeat_interleave(starts, 0)


def _projection(latents: Latents, images: Tensor, target: Tensor, damaged: Tensor, masked: bool) -> Projection:
    target, damaged = target.cpu(), damaged.cpu()
    known = (~damaged).expand_as(target)
    squares = (images.float() - target.float()).square() * known
    errors = (squares.flatten(1).sum(1) / known.flatten(1).sum(1)).sqrt()
    labels = None if latents.labels is None else latents.labels.cpu()
    return Projection(latents.z.cpu(), images, torch.where(damaged, images, target) if masked else None, errors, labels)


def _check(
    network: nn.Module,
    z_dim: int,
    target: Tensor,
    mask: Tensor | None,
    steps: int,
    starts: int,
    label: Tensor | None,
) -> None:
    """Refuse arguments that `project` does not accept.

    Raises:
        UserError: see `project`.
    """
    if steps < LEAST_STEPS:
        raise UserError(f"a projection takes at least {LEAST_STEPS} steps, not {steps}")
    if not 1 <= starts <= POOL:
        raise UserError(f"a projection has 1 to {POOL} starts, not {starts}")
    device = next(network.parameters()).device
    with torch.no_grad():
        inputs = [value.to(device) for value in (torch.zeros(1, z_dim), label) if value is not None]
        shape = network(*inputs).shape[1:]
    if target.dtype != torch.uint8 or target.dim() != 4 or len(target) == 0 or target.shape[1:] != shape:
        raise UserError(
            f"the images to project must be uint8, (N, {', '.join(map(str, shape))}) as the generator makes them, "
            f"not {_kind(target)}"
        )
    if mask is None:
        return
    if mask.dtype != torch.bool or mask.shape not in {(count, 1, *shape[1:]) for count in (1, len(target))}:
        raise UserError(
            f"the mask must be bool, ({len(target)} or 1, 1, {shape[1]}, {shape[2]}) for the images, not {_kind(mask)}"
        )
    shares = mask.float().mean((1, 2, 3))
    for wrong, what in ((0.0, "empty: it marks no pixel as damaged"), (1.0, "full: it leaves no pixel to go by")):
        if (shares == wrong).any():
            raise UserError(f"mask number {int((shares == wrong).int().argmax())} is {what}")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}, ({', '.join(map(str, tensor.shape))})"
