"""The Classification Accuracy Score at small scale: what a classifier learns from conditional samples alone."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gantry.core.progress import progress
from gantry.data.images import ImageSet
from gantry.evaluation.asked import labels_among
from gantry.evaluation.extractors.classifier import RECIPE, one_thread
from gantry.evaluation.metrics.class_shares import names_of
from gantry.evaluation.metrics.classification_accuracy import (
    CAVEAT_HELD_OUT,
    HELD_OUT,
    MOST_BYTES,
    Lessons,
    Material,
    checked,
    held_out,
)
from gantry.evaluation.metrics.metric import ASKED, SETS, Found, Inputs, Metric

SEEDS = 3  # classifiers of each kind
VALUE = "cas_small"


def metric() -> Metric:
    """Return the metric `cas_small`, 0 to 1, higher is better; its details have the same classifier's of real images.

    Its name says neither extractor nor number of images, on which it does not depend.
    """
    return Metric("cas", True, compute=_compute, needs=(SETS, ASKED), values=(VALUE,), first_draw=True, suffixed=False)


def _compute(inputs: Inputs) -> Found:
    sets = inputs.sets
    assert sets is not None
    train, test = sets.trained_on, sets.held_out
    if test is None:
        train, test = held_out(train)
    made = sets.generated(min(len(train), max(1, MOST_BYTES // max(1, train.images[:1].nbytes))))
    with progress("classifiers", None, "step") as bar:
        found = cas(made, train, test, seed=inputs.seed, progress=bar.reach)
    return Found({VALUE: found["generated"]["mean"]}, found, caveats=_caveats(found))


def cas(
    generated: ImageSet,
    train: ImageSet,
    test: ImageSet,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
    *,
    seeds: int = SEEDS,
    budget: int | None = None,
) -> dict[str, Any]:
    """Measure the top-1 accuracy on real test images of classifiers trained on generated images with asked classes.

    Ravuri and Vinyals 2019, Classification Accuracy Score for Conditional Generative Models, section 3: a ResNet-50,
    trained on as many samples as ImageNet's training set has images, with its labels, for 90 epochs, beside the same
    network trained on the real images. Here it is the small classifier of
    `gantry.evaluation.extractors.classifier`, trained by its recipe on one thread of the CPU: its accuracies are
    comparable with one another only.

    Args:
        generated: images of `train`'s shape whose labels are the asked classes; as many as `train` has for the
            paper's protocol, the first so many if there are more.
        train: real images with labels.
        test: real images with labels, none of them in `train`.
        seed: the first of the seeds; they choose the images' order, initial weights and augmentation.
        progress: called with the number of training steps done and their total.
        seeds: classifiers of each kind.
        budget: images that each classifier sees; None: as many as the recipe says.

    Returns:
        For `generated` and `real` the mean accuracy, 0 to 1, its standard deviation over seeds (null for one), the
        number of training images and each class's accuracy by name; and the settings.

    Raises:
        UserError: images without labels or of fewer than two classes, of different shapes, or test images that are
            the training images.
    """
    classes = checked("cas", generated, train, test, seeds)
    names = names_of(train.classes or (), classes)
    labels = labels_among(generated, names)
    assert labels is not None
    assert train.labels is not None
    most = min(RECIPE.epochs * len(train), max(RECIPE.images, len(train)))
    steps = max(1, (most if budget is None else budget) // RECIPE.batch_size)
    lessons = Lessons(train, test, classes, steps, lambda done: progress(done, 2 * seeds * steps))
    part = np.arange(min(len(generated), len(train)))
    with one_thread():
        for own in range(seed, seed + seeds):
            lessons.learn("generated", None, [Material(generated.images, part, labels[part])], own)
            lessons.learn("real", len(train), [Material(train.images, np.arange(len(train)), train.labels)], own)
    return {
        "generated": _accuracies(lessons.correct["generated", None], len(part), test, names),
        "real": _accuracies(lessons.correct["real", len(train)], len(train), test, names),
        "steps": steps,
        "batch_size": RECIPE.batch_size,
        "seeds": seeds,
        "recipe": RECIPE.version,
        "n_test": len(test),
        "test_split": test.split,
    }


def _accuracies(correct: Sequence[np.ndarray], learned: int, test: ImageSet, names: Sequence[str]) -> dict[str, Any]:
    """Summarise which test images the classifiers of all seeds recognise, each bool (n_test,)."""
    assert test.labels is not None
    right = np.array(correct, float)
    means = right.mean(1)
    return {
        "mean": float(means.mean()),
        "std": float(means.std(ddof=1)) if len(means) > 1 else None,
        "images": learned,
        "classes": {names[label]: float(right[:, test.labels == label].mean()) for label in np.unique(test.labels)},
    }


def _caveats(found: dict[str, Any]) -> list[str]:
    said = []
    generated, real = (found[kind]["images"] for kind in ("generated", "real"))
    if generated < real:
        said.append(f"{VALUE}: its classifiers have {generated:,} generated images, those of real ones {real:,}")
    if found["test_split"] == HELD_OUT:
        said.append(f"{VALUE}: {CAVEAT_HELD_OUT}")
    return said
