"""A small classifier of the data set's own labels, for images on which Inception is not informative."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gantry.core.errors import UserError
from gantry.core.randomness import draws
from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import NetworkExtractor
from gantry.evaluation.extractors.judgement import caveats, interval

logger = logging.getLogger(__name__)

INSTEAD = "Use metrics=inception (evaluate.py: extractor=inception)."


@dataclass(frozen=True)
class Recipe:
    """All settings of the classifier; part of the cache key, in which `version` stands for changes of the code."""

    version: int = 1
    width: int = 16  # channels of the first layer; 2x and 4x in the next two
    features: int = 64
    batch_size: int = 128
    epochs: int = 16  # at most
    images: int = 60_000  # seen in training, at most, unless one epoch holds more
    learning_rate: float = 4e-3  # the peak of one cycle (Smith and Topin 2018, Super-Convergence)
    weight_decay: float = 1e-2
    held_out: float = 0.1


RECIPE = Recipe()


class Classifier(nn.Module):
    """uint8 (n, C, H, W) -> features (n, `RECIPE.features`), logits (n, classes).

    The first layer's stride brings the shorter side of larger images down to about 32 pixels, so that the cost hardly
    grows. Images are seen at their own shape.
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        stride, width = max(1, min(size) // 32), RECIPE.width
        left = math.prod(len(range(0, side, stride)) // 4 for side in size)  # pixels after the trunk
        self.trunk = nn.Sequential(
            *_block(channels, width, kernel=stride + 2 + (stride + 1) % 2, stride=stride),
            nn.MaxPool2d(2),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 4 * width),
            nn.Flatten(),
            nn.Linear(4 * width * left, RECIPE.features, bias=False),
            nn.BatchNorm1d(RECIPE.features),
            nn.ReLU(),
        )
        self.head = nn.Linear(RECIPE.features, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(images.float() / 127.5 - 1)
        return features, self.head(features)


def _block(channels: int, width: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(width), nn.ReLU()


def classifier(*, data: ImageSet, cache: Path, device: torch.device | str = "cpu") -> NetworkExtractor:
    """Return an extractor with the last hidden layer of a small classifier of `data` as features, and its logits.

    It is trained once for a data set, by a fixed recipe and seed, on nine tenths of the images; its accuracy on the
    rest is in `details`, and what speaks against it as a judge in `caveats`. Stored in `cache`/classifiers.

    Args:
        data: the images to be measured, with labels.
        cache: folder of everything that can be computed again.
        device: where the network runs. It is trained on the CPU, so that it does not depend on the device.

    Raises:
        UserError: `data` has no labels, or only one class, or fewer than 20 images.
    """
    if data.labels is None:
        why = f" ({data.reading.labels})" if data.reading is not None and data.reading.labels else ""
        raise UserError(f"the classifier needs labels, and {data.name} has none{why}. {INSTEAD}")
    classes = max(int(data.labels.max()) + 1, len(data.classes or ()))
    if len(np.unique(data.labels)) < 2 or len(data.labels) < 20:
        raise UserError(
            f"the classifier needs two classes and 20 images to learn from; {data.name} has "
            f"{len(data.labels)} images of {len(np.unique(data.labels))} classes. {INSTEAD}"
        )
    recipe = {"recipe": asdict(RECIPE), "data": data.digest, "classes": classes, "flip": data.flip}
    if data.ground:
        recipe["ground"] = data.ground
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    path = cache / "classifiers" / f"{key[:32]}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    network = untrained(data.shape, classes)
    with FileLock(f"{path}.lock"):
        about = _load(network, path)
        if about is None:
            logger.info("Training the classifier that measures %s (once; it is kept in %s)", data.name, path.parent)
            with one_thread():
                accuracy = _train(network, data)
            about = {"accuracy": f"{accuracy:.4f}", "sha256": _digest(network.state_dict())}
            partial = path.with_suffix(".partial")
            partial.write_bytes(save(network.state_dict(), metadata=about))
            os.replace(partial, path)  # noqa: PTH105
    known, held_out = split(len(data))
    count, accuracy = len(held_out), float(about["accuracy"])
    sure = "95 % interval {:.0%} to {:.0%}".format(*interval(round(accuracy * count), count))
    logger.info("It recognises %.2f %% of %d held-out images (%s)", 100 * accuracy, count, sure)
    said = caveats(
        f"the classifier of {data.name}", data.labels[known], data.labels[held_out], accuracy, data.classes or ()
    )
    for caveat in said:
        logger.warning("%s", caveat)
    return NetworkExtractor(
        network=network,
        name="classifier",
        digest=about["sha256"],
        resize="none",
        device=torch.device(device),
        labelled=True,
        batch_size=256,
        graph=torch.device(device).type == "cuda",
        details={"classifier_accuracy": accuracy},
        caveats=tuple(said),
    )


def untrained(shape: tuple[int, int, int], classes: int, seed: int = 0) -> Classifier:
    """Return the classifier of images of `shape`, (C, H, W), with the initial weights of `seed`.

    It does not depend on torch's global generator.
    """
    with torch.random.fork_rng(devices=[]):  # for the initialisation; the rest draws statelessly
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPU's too
        return Classifier(shape[0], shape[1:], classes)


def fit(
    network: nn.Module, batches: Iterable[tuple[np.ndarray, np.ndarray]], steps: int, flip: bool, seed: int = 0
) -> None:
    """Train `network` in place by `RECIPE`'s optimizer and augmentation, and put it in eval mode.

    Args:
        network: maps uint8 (n, C, H, W) to (features, logits).
        batches: `steps` pairs of images, uint8 (n, C, H, W) with n >= 2, and labels, int64 (n,).
        steps: the length of the learning rate's cycle.
        flip: True if images may be mirrored.
        seed: of the augmentation.
    """
    network.train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=RECIPE.learning_rate, weight_decay=RECIPE.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RECIPE.learning_rate, total_steps=steps)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        for step, (images, labels) in enumerate(batches):
            seen = _augment(torch.from_numpy(images), flip, step, seed)
            loss = F.cross_entropy(network(seen)[1], torch.from_numpy(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def verdicts(network: nn.Module, images: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return the classes, int64 (len(part),), that `network` predicts for `images[part]`, of uint8 (n, C, H, W)."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        parts = [
            network(torch.from_numpy(images[chosen]))[1].argmax(1).numpy()
            for chosen in np.array_split(part, -(-len(part) // 500))
        ]
    return np.concatenate(parts)


def _load(network: nn.Module, path: Path) -> dict[str, str] | None:
    """Load `network` from the file and return the file's metadata; None where the file is missing or damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        float(about["accuracy"])
        if about["sha256"] == _digest(state):
            network.load_state_dict(state)
            return about
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        logger.debug("%s: %s", path, error)
    logger.warning("%s is damaged: training that classifier again", path)
    return None


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def _train(network: nn.Module, data: ImageSet) -> float:
    """Train `network` in place and return its accuracy on held-out images, 0 to 1."""
    from torchmetrics.functional.classification import multiclass_accuracy  # slow to import

    assert data.labels is not None
    known, held_out = split(len(data))
    batch = min(RECIPE.batch_size, len(known))
    steps = min(RECIPE.epochs * (len(known) // batch), max(RECIPE.images, len(known)) // batch)
    batches = ((data.images[chosen], data.labels[chosen]) for chosen in _batches(known, batch, steps))
    fit(network, batches, steps, data.flip)
    seen, true = (torch.from_numpy(each) for each in (verdicts(network, data.images, held_out), data.labels[held_out]))
    classes = network(torch.from_numpy(data.images[:2].copy()))[1].shape[1]
    return multiclass_accuracy(seen, true, classes, average="micro").item()


def split(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the images to learn from, in random order, and those held out, sorted; int64 both."""
    order = draws(0, 0, "classifier split").permutation(count)
    held_out, known = np.split(order, [max(1, round(RECIPE.held_out * count))])
    return known, np.sort(held_out)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread within this context, so that the order of sums, and the classifier, do not depend on the cores.

    Layers this small gain little from more threads, and are much slower where other processes use the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(known: np.ndarray, size: int, steps: int) -> Iterator[np.ndarray]:
    per_epoch = len(known) // size
    for step in range(steps):
        if step % per_epoch == 0:
            order = draws(0, step // per_epoch, "classifier order").permutation(known)
        first = step % per_epoch * size
        yield order[first : first + size]


def _augment(images: Tensor, flip: bool, step: int, seed: int = 0) -> Tensor:
    """Shift each image by up to a fourteenth of its shorter side, and mirror half of them if `flip`."""
    count, _, height, width = images.shape
    reach = max(1, min(height, width) // 14)
    random = draws(seed, step, "classifier augmentation")
    shift = torch.from_numpy(random.integers(0, 2 * reach + 1, (2, count, 1)))
    columns = torch.arange(width).expand(count, width)
    rows = torch.arange(height) + shift[0]
    if flip:
        columns = torch.where(torch.from_numpy(random.random((count, 1)) < 0.5), columns.flip(1), columns)
    columns = columns + shift[1]
    padded = F.pad(images.float(), (reach,) * 4, mode="replicate").to(torch.uint8)
    picked = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
