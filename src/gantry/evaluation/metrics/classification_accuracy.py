"""Measures the accuracy of classifiers trained on generated images: alone, and added to few or many real ones.

After Ravuri and Vinyals 2019, Classification Accuracy Score for Conditional Generative Models: a classifier
trained on generated images and tested on real ones, and (their naive augmentation) trained on both. They train
a ResNet-50 on ImageNet; here it is the small classifier of `gantry.evaluation.extractors.classifier`, so the accuracies
are comparable with one another only.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from gantry.core.errors import UserError
from gantry.core.progress import progress
from gantry.core.randomness import draws
from gantry.data.images import ImageSet, digest_of
from gantry.evaluation.asked import labels_among
from gantry.evaluation.extractors.classifier import RECIPE, Classifier, fit, one_thread, untrained, verdicts
from gantry.evaluation.extractors.judgement import beside_chance, largest_share
from gantry.evaluation.metrics.classification_results import Augmentation, Diet, Trained, gain_of
from gantry.evaluation.metrics.metric import SETS, Found, Inputs, Metric

BUDGET = 32_000  # images in the training of a classifier: 9 s on one core at 28 pixels
HELD_OUT = "held-out"  # name of the split of a test set drawn from the generator's possible training images
MOST_GENERATED = 10_000  # generated images a classifier is trained on, at most
MOST_BYTES = 2**30  # of images copied by `held_out`

CAVEAT = (
    "The generator learned from all of its own training images, however few real ones the classifier is given: "
    "a gain at a small size is in part what it passes on of the images withheld here."
)
CAVEAT_HELD_OUT = (
    "This data has no test split of its own: the generator may have learned from the held-out test images too, "
    "so that every accuracy with generated images may be too high."
)


def metric() -> Metric:
    """Return the metric, a table of accuracies without a single value."""
    return Metric("augmentation", {}, compute=_compute, needs=(SETS,), values=(), first_draw=True)


def _compute(inputs: Inputs) -> Found:
    sets = inputs.sets
    assert sets is not None
    train, test = sets.trained_on, sets.held_out
    if test is None:
        train, test = held_out(train)
    made = sets.generated(min(len(inputs.features), MOST_GENERATED))
    with progress("classifiers", None, "step") as bar:
        return Found({}, augmentation(made, train, test, seed=inputs.seed, progress=bar.reach).record())


class Material(NamedTuple):
    """The images `images[part]`, of uint8 (N, C, H, W), with their labels, int64 (len(part),)."""

    images: np.ndarray
    part: np.ndarray
    labels: np.ndarray


def augmentation(
    generated: ImageSet,
    train: ImageSet,
    test: ImageSet,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
    *,
    seeds: int = 3,
    budget: int = BUDGET,
) -> Augmentation:
    """Measure the accuracy on `test` of classifiers trained on real images, on generated ones, and on both.

    For each size m: m images drawn from `train`; the generated images; and both, in batches of which each kind
    fills its share, the real ones at least half. All train for the same number of steps by the recipe of
    `gantry.evaluation.extractors.classifier`, on one thread of the CPU. Where the generated images have no labels, the
    classifier of the m real ones gives them, so nothing is known beyond the m images and the generator; but the
    generator itself has seen all of its own training images (`CAVEAT`).

    Args:
        generated: images of `train`'s shape, with labels or without. Labels count if their classes are `train`'s
            by name, or are numbers of its classes. At most as many images as the budget lasts for are drawn.
        train: real images with labels.
        test: real images with labels, none of them in `train`: the data set's test split, or see `held_out`.
        sizes: the numbers of real images; by default 10 and 100 for each class, and all, or as many as the
            budget lasts for.
        seed: the first of the seeds; they choose images, their order, initial weights and augmentation.
        progress: called with the number of training steps done and their total.
        seeds: how many classifiers for each diet and size.
        budget: images that each classifier sees in training, or the largest size where that is more.

    Raises:
        UserError: real images without labels or with fewer than two classes, sizes there are not, test images
            that are the training images, or images of different shapes.
    """
    classes = checked("augmentation", generated, train, test, seeds)
    chosen_sizes = default_sizes(len(train), classes, budget) if sizes is None else sorted(set(sizes))
    if not chosen_sizes or chosen_sizes[0] < 2 or chosen_sizes[-1] > len(train):
        raise UserError(f"augmentation sizes {list(sizes or ())}: each must be 2 to {len(train)}, the images there are")
    given = labels_among(generated, train.classes or tuple(map(str, range(classes))))
    steps = -(-max(budget, chosen_sizes[-1]) // RECIPE.batch_size)
    total = seeds * steps * (2 * len(chosen_sizes) + (len(chosen_sizes) if given is None else 1))
    lessons = Lessons(train, test, classes, steps, lambda done: progress(done, total))
    used = min(len(generated), steps * RECIPE.batch_size)
    with one_thread():
        for own in range(seed, seed + seeds):
            made = draws(own, 0, "augmentation generated").permutation(len(generated))[:used]
            lessons.of_seed(own, generated, made, given, chosen_sizes)
    correct = lessons.correct
    return Augmentation(
        trained=tuple(sorted(_trained(correct, used), key=lambda row: row.size or 0)),
        gains=tuple(gain_of(size, correct["real", size], correct["real + generated", size]) for size in chosen_sizes),
        labels="classifier of the m real images" if given is None else "given",
        steps=steps,
        batch_size=RECIPE.batch_size,
        seeds=seeds,
        n_test=len(test),
        test_split=test.split,
        caveats=(CAVEAT, *([CAVEAT_HELD_OUT] if test.split == HELD_OUT else []), *_at_chance(correct, test)),
    )


def checked(measure: str, generated: ImageSet, train: ImageSet, test: ImageSet, seeds: int) -> int:
    """Return the number of classes of the real images that a measure of this name trains classifiers on.

    Raises:
        UserError: see `augmentation`.
    """
    if train.labels is None or test.labels is None or len(np.unique(train.labels)) < 2:
        raise UserError(f"{measure} needs a data set with labels of two classes or more; {train.name} has not")
    if train.digest == test.digest:
        raise UserError(f"{measure} needs test images that are not the training images of {train.name}")
    if not train.shape == test.shape == generated.shape:
        raise UserError(
            f"{measure} needs images of one shape: generated {generated.shape}, training {train.shape}, "
            f"test {test.shape}"
        )
    if seeds < 1 or not len(generated):
        raise UserError(f"{measure} needs one seed and one generated image at least, not {seeds}, {len(generated)}")
    return max(int(train.labels.max()) + 1, int(test.labels.max()) + 1, len(train.classes or ()))


@dataclass
class Lessons:
    """Trains the classifiers; `correct` has which `test` images each classifies correctly, bool (n_test,)."""

    train: ImageSet
    test: ImageSet
    classes: int
    steps: int
    progress: Callable[[int], object]
    done: int = 0
    correct: dict[tuple[Diet, int | None], list[np.ndarray]] = field(default_factory=dict)

    def of_seed(
        self, seed: int, generated: ImageSet, made: np.ndarray, given: np.ndarray | None, sizes: Sequence[int]
    ) -> None:
        """Train one classifier for each diet and size on the images `made` of `generated`, whose labels are `given`."""
        images, real_labels = self.train.images, self.train.labels
        assert real_labels is not None
        order = draws(seed, 0, "augmentation real").permutation(len(self.train))
        if given is not None:
            self.learn("generated", None, [Material(generated.images, made, given[made])], seed)
        for size in sizes:
            real = Material(images, order[:size], real_labels[order[:size]])
            teacher = self.learn("real", size, [real], seed)
            labels = verdicts(teacher, generated.images, made) if given is None else given[made]
            fake = Material(generated.images, made, labels)
            if given is None:
                self.learn("generated", size, [fake], seed)
            self.learn("real + generated", size, [real, fake], seed)

    def learn(self, diet: Diet, size: int | None, sources: Sequence[Material], seed: int) -> Classifier:
        """Train a classifier on `sources`."""
        network = untrained(self.train.shape, self.classes, seed)
        fit(network, self._counted(sources, seed), self.steps, self.train.flip, seed)
        seen = verdicts(network, self.test.images, np.arange(len(self.test))) == self.test.labels
        self.correct.setdefault((diet, size), []).append(seen)
        return network

    def _counted(self, sources: Sequence[Material], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in _batches(sources, self.steps, seed):
            yield batch
            self.done += 1
            self.progress(self.done)


def _trained(correct: Mapping[tuple[Diet, int | None], Sequence[np.ndarray]], used: int) -> list[Trained]:
    return [
        Trained(
            diet,
            size,
            real=0 if diet == "generated" else size or 0,
            generated=0 if diet == "real" else used,
            accuracies=tuple(float(seen.mean()) for seen in rows),
        )
        for (diet, size), rows in correct.items()
    ]


def _at_chance(correct: Mapping[tuple[Diet, int | None], Sequence[np.ndarray]], test: ImageSet) -> list[str]:
    """Return a caveat where no classifier of the most real images is clearly better than chance."""
    assert test.labels is not None
    size = max(size or 0 for diet, size in correct if diet == "real")
    most, chance = max(int(seen.sum()) for seen in correct["real", size]), largest_share(test.labels)
    note = beside_chance(most, len(test), chance)
    return [f"The best classifier of {size} real images {note}: gains say little."] if note else []


def default_sizes(count: int, classes: int, budget: int = BUDGET) -> list[int]:
    """Return 10 and 100 images for each class if that is at most half of `count`, and `count`, at most `budget`."""
    most = min(count, budget)
    return [size for size in (10 * classes, 100 * classes) if 2 * size <= most] + [most]


def held_out(data: ImageSet, share: float = 0.2) -> tuple[ImageSet, ImageSet]:
    """Split `data` into (train, test), with `share` for testing, drawn at random, the same for every seed.

    For data without a test split. Both are copies; if they would exceed a gibibyte, of a random part of the images.

    Raises:
        UserError: one of the two would be empty.
    """
    count = min(len(data), max(1, MOST_BYTES // max(1, math.prod(data.shape))))
    tested = round(share * count)
    if not 0 < tested < count:
        raise UserError(f"{data.name} has {count} images: {share:g} of them cannot be held out for testing")
    order = draws(0, 0, "augmentation split").permutation(len(data))[:count]
    return _part(data, order[tested:], f"all but {HELD_OUT}"), _part(data, order[:tested], HELD_OUT)


def _part(data: ImageSet, chosen: np.ndarray, split: str) -> ImageSet:
    chosen = np.sort(chosen)
    images = np.asarray(data.images[chosen])
    labels = None if data.labels is None else data.labels[chosen]
    digest = digest_of(images.shape, hashlib.sha256(images.data).digest(), labels)
    return replace(data, images=images, labels=labels, digest=digest, split=split)


def _batches(sources: Sequence[Material], steps: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `steps` batches of images and labels; of two sources the first fills its share by size, at least half."""
    size, counts = RECIPE.batch_size, [len(source.part) for source in sources]
    first = min(size - 1, round(size * max(0.5, counts[0] / sum(counts))))
    takes = [first, size - first] if len(sources) == 2 else [size]
    streams = [
        _stream(count, take, steps, seed, f"augmentation order {place}")
        for place, (count, take) in enumerate(zip(counts, takes, strict=True))
    ]
    for picked in zip(*streams, strict=True):
        pairs = list(zip(sources, picked, strict=True))
        images = np.concatenate([source.images[source.part[chosen]] for source, chosen in pairs])
        yield images, np.concatenate([source.labels[chosen] for source, chosen in pairs])


def _stream(count: int, size: int, steps: int, seed: int, purpose: str) -> Iterator[np.ndarray]:
    """Yield `steps` batches of `size` indices below `count` from a sequence of random permutations."""
    left, epoch = np.empty(0, np.int64), 0
    for _ in range(steps):
        while len(left) < size:
            left = np.concatenate([left, draws(seed, epoch, purpose).permutation(count)])
            epoch += 1
        yield left[:size]
        left = left[size:]
