"""Precision, recall, density and coverage: shares of real and generated images in each other's neighbourhoods."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gantry.core.errors import UserError
from gantry.evaluation.metrics.metric import Inputs, Metric
from gantry.evaluation.moments import chunks

PRECISION_NEIGHBOURS = 3  # Kynkaanniemi et al. 2019
COVERAGE_NEIGHBOURS = 5  # Naeem et al. 2020
ROWS, COLUMNS = 1000, 4096  # of the blocks in which distances are computed


class Manifold(NamedTuple):
    """Shares 0 to 1, but for density, which is 0 or above and 1 for equal distributions; higher is better."""

    precision: float
    recall: float
    density: float
    coverage: float


def metric() -> Metric:
    """Return the metric with `precision`, `recall`, `density` and `coverage`, higher is better."""
    return Metric(
        "precision_recall",
        higher_is_better=True,
        compute=lambda inputs: inputs.once(_both)[0]._asdict(),
        spread=lambda inputs, values: inputs.once(_both)[1]._asdict(),
        values=Manifold._fields,
    )


def _both(inputs: Inputs) -> tuple[Manifold, Manifold]:
    real, generated = inputs.both_placed
    with inputs.watch("neighbours of real images"):
        known = inputs.real.derived("radii", lambda features: radii(real))
    with inputs.watch("neighbours"):
        return manifold(real, generated, known)


def distance_blocks(queries: Tensor, base: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield Euclidean distances of all `queries` (m, d) from `base` (n, d): slices of it with blocks (m, columns).

    By matrix products in float32, as torch-fidelity computes them: accurate to 1e-6 of the features' norms, so those of
    near copies are not zero.
    """
    for start, chunk in zip(range(0, len(base), COLUMNS), chunks(base, size=COLUMNS), strict=True):
        yield slice(start, start + len(chunk)), torch.cdist(queries, chunk)


def radii(features: Tensor) -> Tensor:
    """Return for each of `features` (n, d) the distances from its third and its fifth neighbour, (n, 2).

    Raises:
        UserError: n is not above 5.
    """
    if len(features) <= COVERAGE_NEIGHBOURS:
        raise UserError(
            f"precision, recall, density and coverage look at the {COVERAGE_NEIGHBOURS} nearest neighbours of each "
            f"image: they need {COVERAGE_NEIGHBOURS + 1} images or more on either side, not {len(features)}"
        )
    found = []
    for queries in chunks(features, size=ROWS):
        nearest = queries.new_empty(len(queries), 0)
        for _, block in distance_blocks(queries, features):
            together = torch.cat((nearest, block), 1)
            nearest = together.topk(min(COVERAGE_NEIGHBOURS + 1, together.shape[1]), largest=False).values
        found.append(nearest[:, [PRECISION_NEIGHBOURS, COVERAGE_NEIGHBOURS]])  # the first one is the image itself
    return torch.cat(found)


def manifold(real: Tensor, generated: Tensor, real_radii: Tensor | None = None) -> tuple[Manifold, Manifold]:
    """Return both papers' scores of `generated` features (n, d) against `real` ones (m, d), and their spread.

    Kynkaanniemi et al. 2019, Improved Precision and Recall Metric for Assessing Generative Models, equations 1 and 2:
    the share of generated images within the distance of a real one's third neighbour from it, and the reverse;
    equal to torch-fidelity's on the same features.
    Naeem et al. 2020, Reliable Fidelity and Diversity Metrics for Generative Models, equations 4 and 5: how many real
    images' balls, reaching to the fifth neighbour, hold a generated image, by five; and the share of balls that hold
    any; equal to their package prdc's.

    Args:
        real, generated: at least 6 on either side, on one device, which computes.
        real_radii: `radii(real)`, where it is known.

    Returns:
        The values, and the standard deviation that each would have over repeated draws of n generated images, the
        real ones staying the same. Precision and density are means over independent images; for recall and coverage
        it is the jackknife's, with the balls held fixed, which is biased upwards (Efron and Stein 1981), by at most
        three quarters in simulations.

    Raises:
        UserError: fewer than 6 images on either side.
    """
    device = generated.device
    real_radii = radii(real) if real_radii is None else real_radii.to(device)
    generated_radii = radii(generated)
    precise = torch.zeros(len(generated), dtype=torch.bool, device=device)
    balls = torch.zeros(len(generated), device=device)
    recalled, covered = _Found(len(real), device), _Found(len(real), device)
    for rows in torch.arange(len(generated), device=device).split(ROWS):
        for columns, block in distance_blocks(generated[rows], real):
            precise[rows] |= (block <= real_radii[columns, 0]).any(1)
            recalled.add(rows, columns, block <= generated_radii[rows, :1])
            inside = block < real_radii[columns, 1]
            balls[rows] += inside.sum(1)
            covered.add(rows, columns, inside)
    fidelity, density = precise.double(), balls.double() / COVERAGE_NEIGHBOURS
    root = len(generated) ** 0.5
    values = Manifold(fidelity.mean().item(), recalled.share(), density.mean().item(), covered.share())
    spread = Manifold(
        fidelity.std().item() / root,
        recalled.jackknife(len(generated)),
        density.std().item() / root,
        covered.jackknife(len(generated)),
    )
    return values, spread


class _Found:
    """Counts for m real images by how many generated ones each is covered, and by which one last."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.times = torch.zeros(count, dtype=torch.int64, device=device)
        self.finder = torch.zeros(count, dtype=torch.int64, device=device)

    def add(self, rows: Tensor, columns: slice, found: Tensor) -> None:
        """Add which real images `columns` the generated images `rows` (r,) cover: bool (r, columns)."""
        any_of_them, which = found.max(0)
        self.finder[columns] = torch.where(any_of_them, rows[which], self.finder[columns])
        self.times[columns] += found.sum(0)

    def share(self) -> float:
        return (self.times > 0).double().mean().item()

    def jackknife(self, n: int) -> float:
        """Return the jackknife standard deviation of the share, leaving out each of n generated images."""
        alone = torch.bincount(self.finder[self.times == 1], minlength=n).double() / len(self.times)
        return ((n - 1) * alone.var(correction=0)).sqrt().item()
