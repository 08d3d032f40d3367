"""Measures images against a data set: what `python evaluate.py` does once it knows what is asked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from gantry.core.determinism import whole_float32
from gantry.core.errors import UserError
from gantry.core.processes.devices import THREADS, cores
from gantry.core.processes.workers import Crew
from gantry.data.images import ImageSet
from gantry.evaluation.extractors.extractor import Features
from gantry.evaluation.features import PIECE, ArraySource, look_at, look_at_share
from gantry.evaluation.metrics import fid_kid_is, memorization, precision_recall, uncertainty
from gantry.evaluation.metrics.class_shares import class_shares
from gantry.evaluation.metrics.classification_accuracy import augmentation, held_out
from gantry.evaluation.real_statistics import Reals, real_features
from gantry.evaluation.request import CLASSES, MAIN, Plan, SampleFiles, can_classify
from gantry.evaluation.result import Result
from gantry.runs.generators import GeneratorFiles, check_finite

VERSION = 1  # raise it when the same settings come to give other values
MORE = (  # scores besides those of every evaluation while training
    *("kid_std", "fid_infinity", "precision", "recall", "density", "coverage", "copy_rate", "distance_ratio"),
)
FEWEST = 10  # real images
AUGMENTED = 10_000  # generated images a classifier is trained on, at most
FORGOTTEN = 14 * 24 * 3600.0  # seconds after which a stopped evaluation can no longer be taken up


def share_reals(plan: Plan, which: str, folder: Path, rank: int, size: int) -> None:
    """Another process's share of the real images that `Plan.real` calls `which`."""
    _take_threads(size)
    look_at_share(ArraySource(plan.real(which).images), {"real": plan.extractors(rank)[MAIN]}, folder, rank, size)


def share_draw(plan: Plan, draw: int, folder: Path, rank: int, size: int) -> None:
    """Another process's share of the images of a draw."""
    _take_threads(size)
    with whole_float32():
        look_at_share(plan.source(draw, rank), plan.extractors(rank), folder, rank, size)


def _take_threads(size: int) -> None:
    if THREADS not in os.environ:
        torch.set_num_threads(max(1, cores() // size))


@contextmanager
def _threads_shared(size: int) -> Iterator[None]:
    """Within it the cores are shared with other processes; what follows is this one's work alone."""
    before = torch.get_num_threads()
    if size > 1:
        _take_threads(size)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - began


def measure(plan: Plan, keep: Callable[[Result], object] = lambda result: None) -> Result:
    """Carry out `plan`. What was looked at before a stop is not looked at again.

    Args:
        keep: puts the result where it is safe; what was looked at is thrown away only after that.

    Raises:
        UserError: something that is needed is not there, or the same evaluation is under way.
        JobFailed: one of the other processes has failed.
    """
    with whole_float32():  # switches of the process, which the thread that makes images would find now on, now off
        return _Measuring(plan).run(keep)


class _Measuring:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.watch = plan, Stopwatch()
        with self.watch("loading"):
            # What cannot be had is refused before anything slow: folders of images are decoded last.
            made = _describe_generator(plan, plan.subject) if isinstance(plan.subject, GeneratorFiles) else None
            self.extractors = plan.extractors(0)
            self.subject = made or _describe_images(plan)
            self.main = self.extractors[MAIN]
            self.classifier = self.extractors.get(CLASSES) or (self.main if self.main.labelled else None)
            self.reference = plan.reference
            if "augmentation" in plan.measures and not can_classify(plan.trained_on):
                raise UserError(f"measures: augmentation needs labels, and {plan.trained_on.name} has none")
            needs = {} if self.main.has_logits else {"inception_score": f"logits, and {self.main.name} has none"}
            needs |= {} if self.classifier else {"classes": f"labels, and {plan.trained_on.name} has none"}
            if needs.keys() >= set(plan.measures):  # beside others they are left out
                raise UserError("\n".join(f"measures: {name} needs {needs[name]}" for name in plan.measures))
        if len(self.reference) < FEWEST:
            raise UserError(f"{self.reference.name} has {len(self.reference)} images; an evaluation needs {FEWEST}")
        self.names = fid_kid_is.names(self.main, plan.n, self.reference.split, *MORE)

    def run(self, keep: Callable[[Result], object]) -> Result:
        plan, watch = self.plan, self.watch
        with watch("real images"):
            self.real = self._reals("reference")
        work = plan.cache / "evaluations" / self._work_key()
        _forget(work.parent)
        with _alone(work):
            drawn = []
            for draw in range(plan.repeats):
                title = "generated images" if plan.repeats == 1 else f"draw {draw + 1} of {plan.repeats}"
                source = plan.source(draw, 0)
                crew = Crew(plan.devices, partial(share_draw, plan, draw))
                with watch("generated images"), _threads_shared(plan.devices):
                    drawn.append(look_at(source, self.extractors, work / str(draw), title, crew))
                if plan.devices > 1 and self._replaced():
                    shutil.rmtree(work)
                    raise UserError("its run has replaced the generator while it was measured: measure it again")
            result = self._measured(drawn)
            keep(result)
            shutil.rmtree(work)
        return result

    @cached_property
    def root(self) -> fid_kid_is.Reference:
        """The costly half of every FID against the same real images."""
        return fid_kid_is.reference(self.real.moments)

    def _replaced(self) -> bool:
        """Whether another process may have loaded another generator than this one."""
        files = self.plan.subject
        return isinstance(files, GeneratorFiles) and files.digest() != self.subject["sha256"]

    def _measured(self, drawn: Sequence[Mapping[str, Features]]) -> Result:
        plan = self.plan
        scored = [self._scores(looked[MAIN]) for looked in drawn]
        values, spread = scored[0] if plan.repeats == 1 else _over_draws([values for values, _ in scored])
        first = drawn[0]
        values, spread = ({self.names[name]: one for name, one in each.items()} for each in (values, spread))
        classes, judge = None, None
        if self.classifier is not None and "classes" in plan.measures:
            judge = {"sha256": self.classifier.digest, **self.classifier.details}
            with self.watch("classes"):
                classes = self._classes(first.get(CLASSES, first[MAIN]), values)
        memorised, pairs = None, None
        if "memorisation" in plan.measures:
            with self.watch("memorisation"):
                memorised, pairs = self._memorisation(first[MAIN], values)
        augmented = None
        if "augmentation" in plan.measures:
            with self.watch("augmentation"):
                augmented = self._augmentation()
        protocol = "custom" if plan.official and not self.main.official else plan.protocol
        return Result(
            *(protocol, self.subject.get("step", 0), values, spread, self._settings(), self.subject),
            *(classes, memorised, augmented, self.watch.seconds, judge, pairs),
        )

    def _scores(self, looked: Features) -> tuple[dict[str, float], dict[str, float]]:
        """The scores of one draw, and what can be told from it of their spread over draws."""
        wanted, features = self.plan.measures, looked.features
        found: dict[str, float] = {}
        spread: dict[str, float] = {}
        if "fid" in wanted:
            with self.watch("fid"):
                known = fid_kid_is.moments(features)
                found["fid"] = fid_kid_is.fid(self.root, known)
                spread["fid"] = uncertainty.fid_spread(self.root, features, known)
        if "fid_infinity" in wanted:
            with self.watch("fid_infinity"):
                found["fid_infinity"] = uncertainty.fid_infinity(self.root, features, self.plan.seed)
                own = spread["fid"] if "fid" in spread else uncertainty.fid_spread(self.root, features)
                spread["fid_infinity"] = uncertainty.fid_infinity_spread(own, len(features))
        if "kid" in wanted:
            with self.watch("kid"):
                found["kid"], found["kid_std"] = fid_kid_is.kid(self.real.features, features)
                std, subsets = found["kid_std"], fid_kid_is.KID_SUBSETS
                spread["kid"] = uncertainty.kid_spread(self.real.features, features, std, subsets)
        if "inception_score" in wanted and self.main.has_logits:
            with self.watch("inception_score"):
                mean, std = fid_kid_is.inception_score(looked.logits)
                found |= {"inception_score": mean, "inception_score_std": std}
                spread["inception_score"] = uncertainty.inception_score_spread(std)
        if "precision_recall" in wanted:
            with self.watch("precision_recall"):
                radii = self.real.derived("radii", precision_recall.radii)
                values, stds = precision_recall.manifold(self.real.features, features, radii)
                found, spread = found | values._asdict(), spread | stds._asdict()
        return found, spread

    def _classes(self, looked: Features, values: dict[str, float]) -> dict[str, tuple[float, float]]:
        """The classes' shares, by the classifier's verdict on both sides; the number drawn goes into `values`."""
        assert self.classifier is not None
        real = real_features(self.classifier, self.reference, self.plan.cache)
        assert real.predicted is not None
        verdicts = torch.cat([part.argmax(1) for part in looked.logits.split(4096)])
        values[f"modes_{self.classifier.name}"] = float(fid_kid_is.classes_covered(real.predicted, verdicts))
        return class_shares(real.predicted, verdicts, self.reference.classes or (), looked.logits.shape[1])

    def _memorisation(self, looked: Features, values: dict[str, float]) -> tuple[dict[str, Any], np.ndarray]:
        plan = self.plan
        train = plan.real("training")
        known = self._reals("training").features
        unseen = None if plan.held_out is None else self._reals("held-out").features
        found = memorization.memorisation(looked.features, known, unseen)
        values |= {self.names[name]: getattr(found, name) for name in ("copy_rate", "distance_ratio")}
        about = {name: value for name, value in found._asdict().items() if name not in ("distances", "indices")}
        about |= {"training_images": len(train), "training_digest": train.digest}
        source = plan.source(0, 0)
        pairs = memorization.closest_pairs(source.of, train.images, found)
        return about | {"held_out_images": 0 if unseen is None else len(unseen)}, pairs

    def _augmentation(self) -> dict[str, Any]:
        """What a classifier learns from the images, on one core whatever the devices."""
        plan = self.plan
        train, test = plan.trained_on, plan.held_out
        if test is None:
            train, test = held_out(train)
        if isinstance(plan.subject, SampleFiles):
            made = plan.images
        else:
            source, count = plan.source(0, 0), min(plan.n, AUGMENTED)
            parts = [source(start, min(PIECE, count - start)).cpu() for start in range(0, count, PIECE)]
            name = f"the generator of {plan.subject.run.name}"
            images = torch.cat(parts).numpy()
            made = ImageSet(name, images, None, None, "all", str(plan.subject.run), self.subject["sha256"], train.flip)
        often = 0.5 if sys.stderr.isatty() else 10.0
        bar = tqdm(desc="classifiers", unit="step", dynamic_ncols=True, delay=1, mininterval=often)

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        with bar:
            return augmentation(made, train, test, seed=plan.seed, progress=progress).record()

    def _reals(self, which: str) -> Reals:
        crew = Crew(self.plan.devices, partial(share_reals, self.plan, which))
        with _threads_shared(self.plan.devices):
            return real_features(self.main, self.plan.real(which), self.plan.cache, crew)

    def _settings(self) -> dict[str, Any]:
        plan, main = self.plan, self.main
        return {
            "n_generated": plan.n,
            "data": self.reference.name,
            "data_digest": self.reference.digest,
            "split": self.reference.split,
            "n_real": len(self.reference),
            "extractor": main.name,
            "extractor_sha256": main.digest,
            "extractor_resize": main.resize,
            "extractor_arithmetic": main.arithmetic,
            **main.details,
            "precision": "float32 images and features, float64 statistics",
            "kid_subsets": fid_kid_is.KID_SUBSETS,
            "kid_subset_size": fid_kid_is.kid_subset_size(len(self.reference), plan.n),
            "inception_score_splits": fid_kid_is.INCEPTION_SCORE_SPLITS,
            "version": VERSION,
        }

    def _work_key(self) -> str:
        looked = {
            name: (extractor.name, extractor.digest, extractor.resize, extractor.arithmetic)
            for name, extractor in self.extractors.items()  # a network's layers share its digest
        }
        text = json.dumps([VERSION, self.subject["sha256"], self.plan.n, self.plan.seed, looked], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _describe_images(plan: Plan) -> dict[str, Any]:
    """Anyone's images, found to be readable."""
    assert isinstance(plan.subject, SampleFiles)
    return {"images": plan.subject.path, "count": len(plan.images), "sha256": plan.images.digest, "seed": plan.seed}


def _describe_generator(plan: Plan, files: GeneratorFiles) -> dict[str, Any]:
    """A generator, found to make images like the real ones."""
    network = plan.network
    check_finite(network, files.folder)
    image = network(torch.zeros(1, files.z_dim))
    if tuple(image.shape[1:]) != plan.reference.shape:
        raise UserError(
            f"the generator makes images (channels, height, width) {tuple(image.shape[1:])}, but those of "
            f"{plan.reference.name} are {plan.reference.shape}; data=... data.image_size=... names others"
        )
    return {
        "run": str(files.run),
        "generator": files.which,
        "averaged": not files.raw,
        "step": files.step(),
        "sha256": files.digest(),
        "seed": plan.seed,
        "draws": plan.repeats,
    }


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold a folder of work in progress.

    Raises:
        UserError: another process holds it.
    """
    work.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{work}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError("this very evaluation is under way in another process; wait for it") from error
    try:
        yield
    finally:
        lock.release()


def _forget(folder: Path) -> None:
    """Throw away what evaluations stopped long ago have left in `folder`: gigabytes each, at 50,000 images."""
    for work in (path for path in folder.glob("*") if path.is_dir()):
        with suppress(UserError, FileNotFoundError):  # it is under way all the same, or has just been done
            latest = max(path.stat().st_mtime for path in (work, *work.iterdir()))
            if latest < time.time() - FORGOTTEN:
                with _alone(work):
                    shutil.rmtree(work)


def _over_draws(scored: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Each score's mean over draws, and its sample standard deviation (n - 1)."""
    names = scored[0]
    return (
        {name: statistics.fmean(one[name] for one in scored) for name in names},
        {name: statistics.stdev(one[name] for one in scored) for name in names if "_std" not in name},
    )
