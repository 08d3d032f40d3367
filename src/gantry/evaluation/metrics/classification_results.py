"""The results of classifiers trained on generated images: accuracies, gains and confidence intervals."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

Diet = Literal["real", "generated", "real + generated"]


@dataclass(frozen=True)
class Trained:
    """The classifiers trained on one diet, one for each seed.

    Attributes:
        diet: the kinds of images they were trained on.
        size: the size of the real training set; None where the diet does not depend on it.
        real, generated: number of different training images of each kind.
        accuracies: share of the real test images classified correctly, 0 to 1, by seed.
    """

    diet: Diet
    size: int | None
    real: int
    generated: int
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """The standard deviation over seeds (n - 1); NaN for one seed."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else math.nan


@dataclass(frozen=True)
class Gain:
    """The gain by adding the generated images to `size` real ones: accuracy with them minus accuracy without.

    Attributes:
        size: the size of the real training set.
        mean: the mean difference over seeds; each seed has its own real subset, the same with and without.
        interval: half the width of its 95 % interval, for the draw of seeds (Student's t) and of test images
            (normal) together; NaN for one seed.
    """

    size: int
    mean: float
    interval: float

    @property
    def clear(self) -> bool:
        """True if the difference, in either direction, is significant: the interval does not contain 0."""
        return abs(self.mean) > self.interval


@dataclass(frozen=True)
class Augmentation:
    """The result of `augmentation`.

    Attributes:
        trained: the classifiers of every diet, by size, then real, generated, both.
        gains: one for each size.
        labels: the origin of the generated images' labels: "given" with them, or predictions of the
            "classifier of the m real images", of the same seed and size, which knows no other image.
        steps, batch_size: the budget, equal for every classifier.
        seeds: number of classifiers for each diet and size.
        n_test: number of real test images.
        test_split: the split of the test images.
        caveats: limits of the numbers.
    """

    trained: tuple[Trained, ...]
    gains: tuple[Gain, ...]
    labels: Literal["given", "classifier of the m real images"]
    steps: int
    batch_size: int
    seeds: int
    n_test: int
    test_split: str
    caveats: tuple[str, ...]

    def record(self) -> dict:
        """Return the result as JSON values, with means and standard deviations; null where one seed is not enough."""
        trained = [asdict(row) | {"mean": row.mean, "std": _number(row.std)} for row in self.trained]
        gains = [asdict(gain) | {"interval": _number(gain.interval), "clear": gain.clear} for gain in self.gains]
        return asdict(self) | {"trained": trained, "gains": gains}


def gain_of(size: int, without: Sequence[np.ndarray], with_them: Sequence[np.ndarray]) -> Gain:
    """Compute the gain from which test images were classified correctly, bool (n_test,), by seed."""
    from scipy import stats

    differences = np.array(with_them, float) - np.array(without, float)  # (seeds, n_test)
    seeds, n_test = differences.shape
    if seeds < 2 or n_test < 2:
        return Gain(size, float(differences.mean()), math.nan)
    of_seeds = stats.t.ppf(0.975, seeds - 1) * differences.mean(1).std(ddof=1) / math.sqrt(seeds)
    of_images = stats.norm.ppf(0.975) * differences.mean(0).std(ddof=1) / math.sqrt(n_test)
    return Gain(size, float(differences.mean()), float(math.hypot(of_seeds, of_images)))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
