"""Describes an evaluation completely and picklably, for every process that takes part in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import chdir, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from torch import nn

from gantry.core.config.instantiate import maker
from gantry.core.errors import UserError
from gantry.data.images import ImageSet
from gantry.data.reading import CROPPED
from gantry.data.sample_files import samples
from gantry.data.sample_refusals import WrongSizes
from gantry.evaluation.asked import can_classify, indices_among, labels_among
from gantry.evaluation.encoder import Encoder
from gantry.evaluation.extractors.extractor import Extractor
from gantry.evaluation.features import ArraySource, Source
from gantry.evaluation.ground import OnGround, measured
from gantry.evaluation.metrics.metric import ASKED, CODES, LABELS, Metric, Need, built
from gantry.models.labels import BY_SHARES, Classes, LabelSource
from gantry.models.latents import stream
from gantry.models.networks.latent_map import latent_map
from gantry.runs.generators import GeneratorFiles, GeneratorSource, check_finite

MAIN, CLASSES = "main", "classes"  # names of the extractors in files


@dataclass(frozen=True)
class SampleFiles:
    """Images from files instead of a generator; picklable.

    Attributes:
        path: a folder or a .npz or .npy.
        cache: folder for the decoded images.
    """

    path: str
    cache: Path

    def load(self, shape: tuple[int, int, int], count: int, labels_needed: bool = False) -> ImageSet:
        """Load `count` images of shape (C, H, W), drawn at random if there are more.

        Args:
            labels_needed: see `gantry.data.sample_files.samples`.

        Raises:
            UserError: they cannot be read, are of another shape or too few.
        """
        found = samples(self.path, self.cache, shape, labels_needed=labels_needed)
        if len(found) < count:
            raise UserError(
                f"images={self.path} holds {len(found)} images, fewer than n={count}; "
                f"n={len(found)} measures them, under names that say so"
            )
        return found.part(count)


@dataclass(frozen=True)
class Plan:
    """All settings of an evaluation; picklable, for the processes that share it.

    Attributes:
        protocol: its name; "custom" if the settings are not those of a named protocol.
        official: the protocol requires the papers' extractor and weights.
        data: the data set's config.
        max_images: number of its images used in training; None: all.
        split: of the real images to compare with.
        max_real: largest number of them, drawn at random; None: all.
        extractor: its config.
        n: images in a draw.
        repeats: draws.
        seed: of the noise; of images, of the subsets behind FID_infinity and of the classifiers.
        measures: of `gantry.core.config.options.Measure`, or a user's with a `_target_`.
        subject: the generator or the image files to measure.
        cache: folder of everything that can be computed again.
        accelerator: "cpu", "cuda" or "mps".
        devices: processes that share the work, a GPU each where there are.
        home: the folder to which the data's relative paths refer; None: the working directory.
        digest: of the images that the generator was trained on; None: not known.
        given: the user has named the data, which need not be those images.
    """

    protocol: str
    official: bool
    data: dict[str, Any]
    max_images: int | None
    split: str
    max_real: int | None
    extractor: dict[str, Any]
    n: int
    repeats: int
    seed: int
    measures: tuple[str | Mapping[str, Any], ...]
    subject: GeneratorFiles | SampleFiles
    cache: Path
    accelerator: str
    devices: int
    home: Path | None = None
    digest: str | None = None
    given: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the loaded images, which another process maps from the disk itself."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @property
    def whole(self) -> ImageSet:
        """The whole split used in training; classifiers are trained on it, equally for every run."""
        return self._images(self._split(self.data.get("split")))

    @cached_property
    def trained_on(self) -> ImageSet:
        """The training images; of a run, those it used."""
        return self.whole if self.max_images is None else self.whole.part(self.max_images)

    @property
    def as_trained(self) -> bool | None:
        """True if the data set holds the images that the generator was trained on; None if those are not known."""
        return None if self.digest is None else self.trained_on.digest == self.digest

    def check_data(self) -> None:
        """Refuse to measure a run against images that have taken the place of those it was trained on.

        Raises:
            UserError: they are others, and the user has not named them.
        """
        if self.as_trained is False and not self.given:
            data, name = self.trained_on, self.data["_target_"].rpartition(".")[2]
            options = {key: one for key, one in self.data.items() if isinstance(one, str | int) and key != "_target_"}
            typed = " ".join([f"data={name}", *(f"data.{key}={one}" for key, one in options.items())])
            raise UserError(
                f"the {len(data):,} images of {data.source} are not those that the run was trained on: they have "
                f"changed since, or are read otherwise (their digest was {str(self.digest)[:12]}, is "
                f"{data.digest[:12]}).\nPut those back; or, to measure against these, name them: {typed}"
            )

    @cached_property
    def reference(self) -> ImageSet:
        """The real images that generated ones are compared with.

        Raises:
            UserError: the data set has no such split.
        """
        return self.limited(self._images(self._split(self.split)))

    @cached_property
    def held_out(self) -> ImageSet | None:
        """Real images that were not used in training; None where the data set has none."""
        return self._images("test") if self.data.get("split") == "train" else None

    def real(self, which: str) -> ImageSet:
        """Return the real images called "reference", "training" or "held-out"."""
        if which == "reference":
            return self.reference
        found = self.trained_on if which == "training" else self.held_out
        assert found is not None
        return self.limited(found)

    @cached_property
    def images(self) -> ImageSet:
        """The images of `SampleFiles`, if they are measured."""
        assert isinstance(self.subject, SampleFiles)
        try:
            shape, needed = self.reference.drawn_shape, not {"augmentation", "cas"}.isdisjoint(map(str, self.measures))
            found = self.subject.load(shape, self.n, labels_needed=needed)
        except WrongSizes as error:
            raise UserError(f"{error}{_how_read(self.reference)}") from error
        return measured(replace(found, ground=self.reference.ground), self.cache)

    def limited(self, data: ImageSet) -> ImageSet:
        """Return at most as many real images as the protocol uses."""
        return data if self.max_real is None else data.part(self.max_real)

    def _split(self, split: str | None) -> str | None:
        if "split" in self.data or split in ("train", None):
            return split if "split" in self.data else None
        name = self.data["_target_"].rpartition(".")[2]
        raise UserError(f"protocol.split={split}: {name} has no splits; protocol=papers, or quick, takes all of it")

    def _images(self, split: str | None) -> ImageSet:
        if split not in self._loaded:
            node = self.data if split is None else self.data | {"split": split}
            with chdir(self.home) if self.home is not None else nullcontext():
                self._loaded[split] = measured(maker(node)(cache=self.cache), self.cache)
        return self._loaded[split]

    @cached_property
    def _loaded(self) -> dict[str | None, ImageSet]:
        return {}

    def device(self, rank: int) -> torch.device:
        """Return the device of process `rank`."""
        return torch.device("cuda", rank) if self.accelerator == "cuda" else torch.device(self.accelerator)

    def extractors(self, rank: int) -> dict[str, Extractor]:
        """Return the chosen extractor and, if its logits are not the data's classes, an extractor for those."""
        device = self.device(rank)
        try:
            main = maker(self.extractor)(data=self.whole, cache=self.cache, device=device)
        except InstantiationException as error:  # of a user's network
            target = self.extractor.get("network", self.extractor).get("_target_")
            why = str(error.__cause__ or error).splitlines()[-1]
            raise UserError(f"extractor: {target} cannot be made: {why} (HYDRA_FULL_ERROR=1 shows where)") from error
        wanted = {MAIN: main}
        absent: set[Need] = {need for need, there in ((ASKED, self.asks), (CODES, self.coded)) if not there}
        judged = any(LABELS in metric.needs for metric in self.metrics if absent.isdisjoint(metric.needs))
        if judged and not main.labelled and can_classify(self.whole):
            from gantry.evaluation.extractors.classifier import classifier

            wanted[CLASSES] = classifier(data=self.whole, cache=self.cache, device=device)
        return wanted

    @cached_property
    def metrics(self) -> list[Metric]:
        """The metrics in `measures`."""
        return built(self.measures)

    @cached_property
    def network(self) -> nn.Module:
        """The generator, loaded once, since a run in training may replace its files."""
        assert isinstance(self.subject, GeneratorFiles)
        return self.subject.load()

    def source(self, draw: int, rank: int) -> Source:
        """Return the images of one draw."""
        if isinstance(self.subject, SampleFiles):
            return ArraySource(self.images.images)
        network = self.network.to(self.device(rank))
        labels = None if self.classes is None else LabelSource(self.classes.shares)
        made = GeneratorSource(network, self.subject.z_dim, self.seed, draw * self.n, self.n, labels=labels)
        return made if self.reference.ground is None else OnGround(made, self.reference.ground)

    @cached_property
    def classes(self) -> Classes | None:
        """The classes whose labels the generator takes; None where it takes none, and of files."""
        return self.subject.classes() if isinstance(self.subject, GeneratorFiles) else None

    @cached_property
    def encoder(self) -> Encoder | None:
        """The generator's encoder; None where it has none, for images on a ground, and of files."""
        if not isinstance(self.subject, GeneratorFiles) or self.reference.ground is not None:
            return None
        return Encoder.of(self.network)

    @property
    def asks(self) -> bool:
        """True where classes are asked of the images, and are those of the reference."""
        return self._places is not None

    def asked(self, draw: int, count: int) -> np.ndarray | None:
        """Return the classes asked of the first `count` images of a draw, int64 (count,); of files, their labels.

        Returns:
            Indices into the reference's classes; None where none were asked, or others.
        """
        if self._places is None or isinstance(self.subject, SampleFiles):
            return None if self._places is None else self._places[:count]
        assert self.classes is not None
        asked: np.ndarray = self._places[LabelSource(self.classes.shares)(self.seed, draw * self.n, count)]
        return asked

    @property
    def coded(self) -> bool:
        """True where the images are a generator's whose latents have categorical codes."""
        return bool(self.codes(0, 1))

    def codes(self, draw: int, count: int | None = None) -> dict[str, torch.Tensor]:
        """Return the categorical codes of a draw's first `count` images by name, int64 (count,); of files, none."""
        latents = latent_map(self.network) if isinstance(self.subject, GeneratorFiles) else None
        if latents is None:
            return {}
        z = stream(self.seed, draw * self.n, self.n if count is None else count, latents.z_dim)
        return latents.categories(torch.from_numpy(z))

    @cached_property
    def _places(self) -> np.ndarray | None:
        """The reference's class of each class of the generator, or of each image of files; None as for `asked`."""
        known = self.reference.classes
        if known is None:
            return None
        if isinstance(self.subject, SampleFiles):
            return labels_among(self.images, known)
        return None if self.classes is None else indices_among(self.classes.names, known)


def _how_read(data: ImageSet) -> str:
    """Say from which sizes the reference's images were made, where they were brought to another one."""
    reading = data.reading
    if reading is None or CROPPED not in reading.altered:
        return ""
    sizes = ", ".join(f"{width}x{height} ({count})" for (width, height), count in reading.sizes)
    return f"\nThe reference's own files, in {data.source}, are {sizes}, of which the central parts are taken"


def describe_images(plan: Plan) -> dict[str, Any]:
    """Check that image files are readable, and describe them."""
    assert isinstance(plan.subject, SampleFiles)
    images = plan.images
    reading = None if images.reading is None else images.reading.record()
    return {
        "images": plan.subject.path,
        "count": len(images),
        "sha256": images.digest,
        "seed": plan.seed,
        "reading": reading,
    }


def describe_generator(plan: Plan) -> dict[str, Any]:
    """Check that a generator's images have the real images' shape, and describe it."""
    files, network = plan.subject, plan.network
    assert isinstance(files, GeneratorFiles)
    check_finite(network, files.folder)
    device = next(network.parameters()).device
    labels = [] if plan.classes is None else [torch.zeros(1, dtype=torch.int64, device=device)]
    image = network(torch.zeros(1, files.z_dim, device=device), *labels)
    if tuple(image.shape[1:]) != plan.reference.drawn_shape:
        raise UserError(
            f"the generator makes images (channels, height, width) {tuple(image.shape[1:])}, but those of "
            f"{plan.reference.name} are {plan.reference.drawn_shape}; data=... data.image_size=... data.channels=... "
            "names others"
        )
    return {
        "run": str(files.run),
        "generator": files.which,
        "averaged": not files.raw,
        "step": files.step(),
        "sha256": files.digest(),
        "seed": plan.seed,
        "draws": plan.repeats,
        "trained_on_these_images": plan.as_trained,
        **({} if plan.classes is None else {"labels": BY_SHARES}),
    }
