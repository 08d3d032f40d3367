"""Measures memorisation: the distances of generated images from the training images, compared with real images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

from gantry.core.errors import UserError
from gantry.core.randomness import draws
from gantry.evaluation.metrics.metric import SETS, Found, Inputs, Metric
from gantry.evaluation.metrics.precision_recall import ROWS, distance_blocks
from gantry.evaluation.placement import placed

COPIED = 0.01  # share of held-out real images that are within a copy's distance of a training image
LEFT_OUT = 10_000  # largest number of training images that replace held-out ones
CANDIDATES = 4  # nearest images by approximate distances, whose exact distances are then compared
TILE = 96  # least size in pixels to which an image of the picture is enlarged


def metric() -> Metric:
    """Return the metric `copy_rate`, lower is better, and `distance_ratio`, higher is better, with `Memorisation`."""
    directions = {"copy_rate": False, "distance_ratio": True}
    return Metric(
        "memorisation", directions, compute=_compute, needs=(SETS,), values=tuple(directions), first_draw=True
    )


def _compute(inputs: Inputs) -> Found:
    sets = inputs.sets
    assert sets is not None
    train = sets.real_images("training")
    unseen = None if sets.held_out is None else sets.real_images("held-out")
    known = [sets.reals(which).features for which in ("training", *(["held-out"] if unseen is not None else []))]
    with inputs.watch("neighbours"):
        memorised = memorisation(*placed(inputs.extractor.device, inputs.features, *known))
    about = {name: value for name, value in memorised._asdict().items() if name not in ("distances", "indices")}
    about |= {"training_images": len(train), "training_digest": train.digest}
    about |= {"held_out_images": 0 if unseen is None else len(unseen)}
    values = {"copy_rate": memorised.copy_rate, "distance_ratio": memorised.distance_ratio}
    return Found(values, about, closest_pairs(sets.source.of, train.images, memorised))


class Memorisation(NamedTuple):
    """Statistics of the distances of n generated images from the training images in feature space.

    Attributes:
        distance_ratio: of the medians; below 1 if generated images are nearer to the training images than new real
            images are; NaN if the real images' median is 0.
        copy_rate: share, 0 to 1, of the generated images no farther from a training image than `threshold`.
        copy_rate_expected: mean rate of a generator that draws from the data's distribution: 0.01, or
            1 / (m + 1) with fewer than 99 real images m.
        copy_rate_std: standard deviation of such a generator's rate.
        threshold: the distance that all but 1 % of the real images exceed.
        generated_median, real_median: of the distances from the nearest training image.
        reference: the kind of real images: "held out", or "training, left out": training images, each against the
            others. Near duplicates among these lower the threshold, so copies may be missed.
        distances: (n,) float32, of the generated images.
        indices: (n,) int64, of their nearest training images.
    """

    distance_ratio: float
    copy_rate: float
    copy_rate_expected: float
    copy_rate_std: float
    threshold: float
    generated_median: float
    real_median: float
    reference: str
    distances: Tensor
    indices: Tensor


def nearest(queries: Tensor, base: Tensor, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distance of each of `queries` (m, d) from the nearest of `base` (n, d), and its index, (m,).

    Distances by matrix products, with errors of 1e-4 of the features' norms and more near zero, select four
    candidates; distances from differences decide, so that an exact copy is at 0.

    Args:
        queries, base: on one device, read in blocks; n is at least 1, or 2 with `exclude`.
        exclude: for each query the index in `base` to ignore, int64 (m,): the query itself.
    """
    distances, indices = [], []
    exclude = None if exclude is None else exclude.to(queries.device)
    for rows in torch.arange(len(queries), device=queries.device).split(ROWS):
        chunk = queries[rows]
        rough, index = chunk.new_empty(len(rows), 0), rows.new_empty(len(rows), 0)
        for columns, block in distance_blocks(chunk, base):
            numbers = torch.arange(columns.start, columns.stop, device=queries.device)
            if exclude is not None:
                block = block.masked_fill(exclude[rows, None] == numbers, torch.inf)
            rough, index = torch.cat((rough, block), 1), torch.cat((index, numbers.expand(len(rows), -1)), 1)
            rough, kept = rough.topk(min(CANDIDATES, rough.shape[1]), largest=False)
            index = index.gather(1, kept)
        exact = torch.stack([(chunk - base[column]).norm(dim=1) for column in index.T], 1)
        best = exact.masked_fill(rough.isinf(), torch.inf).min(1)
        distances.append(best.values)
        indices.append(index.gather(1, best.indices[:, None])[:, 0])
    return torch.cat(distances), torch.cat(indices)


def memorisation(generated: Tensor, train: Tensor, held_out: Tensor | None = None) -> Memorisation:
    """Compare the distances of `generated` features (n, d) and of held-out real ones from `train`, (N, d).

    After Meehan et al. 2020, A Non-Parametric Test to Detect Data-Copying in Generative Models: a generator that
    does not copy is as far from its training images as new real images are. Copies are detected as far as the features
    represent them; features cannot prove that two images are equal pixel for pixel.

    Args:
        held_out: features (m, d) of real images that the generator was not trained on. None: at most 10,000 of the
            training images are used instead, each compared with the others.

    Raises:
        UserError: there are no generated or held-out images, or fewer than 2 training images.
    """
    if len(generated) == 0 or len(train) < 2 or (held_out is not None and len(held_out) == 0):
        raise UserError(
            "memorisation needs a generated image, 2 training images, and a held-out one where these are given; "
            f"there are {len(generated)}, {len(train)} and {'none' if held_out is None else len(held_out)}"
        )
    distances, indices = nearest(generated, train)
    if held_out is None:
        rows = torch.from_numpy(np.sort(draws(0, 0, "left out").permutation(len(train))[:LEFT_OUT])).to(train.device)
        real = nearest(train[rows], train, exclude=rows)[0]
    else:
        real = nearest(held_out, train)[0]
    distances, indices, real = (found.cpu() for found in (distances, indices, real))
    n, m = len(generated), len(real)
    rank = max(1, int(COPIED * (m + 1)))
    expected = rank / (m + 1)  # for one more distance of the same distribution, by symmetry
    threshold = real.kthvalue(rank).values.item()
    generated_median, real_median = (float(np.median(side.numpy())) for side in (distances, real))
    return Memorisation(
        distance_ratio=generated_median / real_median if real_median > 0 else float("nan"),
        copy_rate=(distances <= threshold).double().mean().item(),
        copy_rate_expected=expected,
        copy_rate_std=(expected * (1 - expected) * (1 / n + (1 - 1 / n) / (m + 2))) ** 0.5,  # beta-binomial
        threshold=threshold,
        generated_median=generated_median,
        real_median=real_median,
        reference="training, left out" if held_out is None else "held out",
        distances=distances,
        indices=indices,
    )


def closest_pairs(
    generated: Callable[[np.ndarray], Tensor], train: np.ndarray, memorised: Memorisation, count: int = 8
) -> np.ndarray:
    """Draw a picture, uint8 (H, W, 3), of the `count` generated images nearest to a training image, closest first.

    One pair in each row, the generated image on the left, enlarged without smoothing.

    Args:
        generated: indices (k,) -> those generated images, uint8 (k, C, H, W).
        train: the training images, uint8 (N, C, H, W) of the same shape.
    """
    closest = memorised.distances.argsort(stable=True)[:count]
    pairs = (generated(closest.numpy()).cpu(), torch.from_numpy(np.asarray(train[memorised.indices[closest].numpy()])))
    scale = max(1, -(-TILE // pairs[0].shape[-1]))
    grid = make_grid(torch.stack(pairs, 1).flatten(0, 1), nrow=2, padding=1).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(grid.repeat(scale, 0).repeat(scale, 1))
