"""Measures images against a data set, as a `Plan` of `python evaluate.py` describes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from gantry.core.determinism import whole_float32
from gantry.core.errors import UserError
from gantry.core.processes.devices import THREADS, cores
from gantry.core.processes.workers import Crew
from gantry.data.describe import data_record
from gantry.data.images import ImageSet
from gantry.data.sample_caveats import caveats as sample_caveats
from gantry.evaluation.asked import can_classify
from gantry.evaluation.extractors.extractor import Extractor, Features
from gantry.evaluation.features import ArraySource, Source, at_a_time, look_at, look_at_share
from gantry.evaluation.metrics import kid
from gantry.evaluation.metrics.metric import ASKED, CLASSED, CODES, ENCODER, LABELS, LOGITS, SETS, Inputs, Metric
from gantry.evaluation.protocol import protocol
from gantry.evaluation.real_statistics import Reals, real_features
from gantry.evaluation.request import (
    CLASSES,
    MAIN,
    Plan,
    SampleFiles,
    describe_generator,
    describe_images,
)
from gantry.evaluation.result import OWN_FIELDS, Result
from gantry.evaluation.score import Scores, ending, lacking, score
from gantry.evaluation.stopwatch import Stopwatch
from gantry.evaluation.work_folder import alone, forget
from gantry.models.labels import BY_SHARES
from gantry.runs.generators import GeneratorFiles

VERSION = 1  # to be raised when the same settings give other values
FEWEST = 10  # real images


def share_reals(plan: Plan, which: str, folder: Path, rank: int, size: int) -> None:
    """Extract the features of a further process's share of the real images `Plan.real(which)`."""
    _begin_share(size)
    look_at_share(ArraySource(plan.real(which).images), {"real": plan.extractors(rank)[MAIN]}, folder, rank, size)


def share_draw(plan: Plan, draw: int, folder: Path, rank: int, size: int) -> None:
    """Extract the features of a further process's share of a draw's images."""
    _begin_share(size)
    with whole_float32():
        look_at_share(plan.source(draw, rank), plan.extractors(rank), folder, rank, size)


def _begin_share(size: int) -> None:
    """Prepare a further process, which shares the cores, and warns of nothing that the first one warns of."""
    logging.getLogger("gantry").setLevel(logging.ERROR)
    _take_threads(size)


def _take_threads(size: int) -> None:
    if THREADS not in os.environ:
        torch.set_num_threads(max(1, cores() // size))


@contextmanager
def _threads_shared(size: int) -> Iterator[None]:
    """Share the cores among `size` processes within the block; later work has them all again."""
    before = torch.get_num_threads()
    if size > 1:
        _take_threads(size)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    plan: Plan,
    keep: Callable[[Result], object] = lambda result: None,
    show: Callable[[ImageSet], object] = lambda data: None,
) -> Result:
    """Carry out `plan` and return its result. A stopped evaluation continues with the features already on disk.

    Args:
        keep: saves the result; only after that the features are deleted.
        show: is told the reference, and then the images of files, before anything is measured.

    Raises:
        UserError: something that the plan needs is missing, or the same evaluation is running.
        JobFailed: another process of the evaluation has failed.
    """
    with whole_float32():  # set once: it applies to all threads, of which one makes images
        measuring = _Measuring(plan)
        show(measuring.reference)
        if isinstance(plan.subject, SampleFiles):
            show(plan.images)
        return measuring.run(keep)


class _Measuring:
    """One evaluation; its metrics use it as their `gantry.evaluation.metrics.metric.Sets`."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.watch = plan, Stopwatch()
        with self.watch("loading"):
            # Missing parts are refused before slow work: folders of images are decoded last.
            plan.check_data()
            made = describe_generator(plan) if isinstance(plan.subject, GeneratorFiles) else None
            self._check_asked()
            self.extractors = plan.extractors(0)
            self.subject = made or describe_images(plan)
            self.main = self.extractors[MAIN]
            self.classifier = self.extractors.get(CLASSES) or (self.main if self.main.labelled else None)
            self.reference = plan.reference
            self.metrics = self._measurable()
        if len(self.reference) < FEWEST:
            raise UserError(f"{self.reference.name} has {len(self.reference)} images; an evaluation needs {FEWEST}")

    def _check_asked(self) -> None:
        """Refuse, before an extractor is made, what needs asked classes where there are none.

        Raises:
            UserError: no metric can be measured, or cas, which trains classifiers for minutes, cannot.
        """
        needing = [metric for metric in self.plan.metrics if ASKED in metric.needs]
        named = [metric.name for metric in needing if SETS in metric.needs or len(needing) == len(self.plan.metrics)]
        if named and not self.plan.asks:
            raise UserError(
                f"measures: {', '.join(named)} needs {ASKED}: a generator that takes labels, or labels beside images "
                f"of files, of the classes of {self.plan.reference.name}"
            )

    def _measurable(self) -> list[Metric]:
        """Return the metrics whose needs (logits, labels, asked classes, codes) are met; the others are left out.

        Raises:
            UserError: no metric can be measured, or augmentation, which trains classifiers for minutes, cannot.
        """
        plan = self.plan
        if "augmentation" in plan.measures and not can_classify(plan.trained_on):
            raise UserError(f"measures: augmentation needs labels, and {plan.trained_on.name} has none")
        met = {ASKED: plan.asks, CODES: plan.coded, ENCODER: plan.encoder is not None}
        met[CLASSED] = can_classify(plan.trained_on)
        needs = {one.name: lacking(one, self._extractor(one), met) for one in plan.metrics}
        found = [metric for metric in plan.metrics if needs[metric.name] is None]
        if not found:
            whose = {LOGITS: self.main.name, LABELS: plan.trained_on.name, CLASSED: plan.trained_on.name}
            whose |= dict.fromkeys((ASKED, CODES, ENCODER), "the generator")
            lines = (
                f"measures: {name} needs {need}, and {whose[need]} has none" for name, need in needs.items() if need
            )
            raise UserError("\n".join(lines))
        return found

    def _extractor(self, metric: Metric) -> Extractor:
        return self.classifier if self.classifier is not None and LABELS in metric.needs else self.main

    def run(self, keep: Callable[[Result], object]) -> Result:
        plan, watch = self.plan, self.watch
        with watch("real images"):
            self.real = self.reals("reference")
        work = plan.cache / "evaluations" / self._work_key()
        forget(work.parent)
        with alone(work):
            drawn = []
            for draw in range(plan.repeats):
                title = "generated images" if plan.repeats == 1 else f"draw {draw + 1} of {plan.repeats}"
                source = plan.source(draw, 0)
                crew = Crew(plan.devices, partial(share_draw, plan, draw))
                with watch("generated images"), _threads_shared(plan.devices):
                    drawn.append(look_at(source, self.extractors, work / str(draw), title, crew, note=watch.note))
                if plan.devices > 1 and self._replaced():
                    shutil.rmtree(work)
                    raise UserError("its run has replaced the generator while it was measured: measure it again")
            result = self._measured(drawn)
            keep(result)
            shutil.rmtree(work)
        return result

    def _replaced(self) -> bool:
        """Return True if another process may have loaded a different generator than this one."""
        files = self.plan.subject
        return isinstance(files, GeneratorFiles) and files.digest() != self.subject["sha256"]

    def _measured(self, drawn: Sequence[Mapping[str, Features]]) -> Result:
        plan = self.plan
        every, once = ([metric for metric in self.metrics if metric.first_draw is first] for first in (False, True))
        scored = [self._scored(every, draw, looked) for draw, looked in enumerate(drawn)]
        values, spread = scored[0].values, scored[0].spread
        if plan.repeats > 1:
            values, spread = _over_draws([one.values for one in scored])
        first = self._scored(once, 0, drawn[0])
        judge = self.classifier if any(LABELS in metric.needs for metric in self.metrics) else None
        details = scored[0].details | first.details
        return Result(
            protocol="custom" if plan.official and not self.main.official else plan.protocol,
            step=self.subject.get("step", 0),
            values=values | first.values,
            spread=spread | first.spread,
            settings=self._settings(),
            subject=self.subject,
            classes=details.get("classes"),
            memorisation=details.get("memorisation"),
            augmentation=details.get("augmentation"),
            details={name: found for name, found in details.items() if name not in OWN_FIELDS},
            seconds=self.watch.seconds,
            classifier={"sha256": judge.digest, **judge.details} if judge else None,
            pairs=first.pictures.get("memorisation"),
            higher_is_better=self._directions(),
            reference=data_record(self.reference),
            caveats=tuple(dict.fromkeys([*self._caveats(), *scored[0].caveats, *first.caveats])),
        )

    def _caveats(self) -> Iterator[str]:
        """Yield what speaks against the values, or makes other tools give others."""
        if isinstance(self.plan.subject, SampleFiles):
            yield from sample_caveats(self.plan.images)
        if self.plan.as_trained is False:
            names = self.plan.trained_on.name
            yield f"the images of {names} are not those that the run was trained on: the command names other data"
        for extractor in self.extractors.values():
            yield from extractor.caveats
        yield from self.real.caveats(self.main, self.reference)

    def _scored(self, metrics: Sequence[Metric], draw: int, looked: Mapping[str, Features]) -> Scores:
        """Score one draw by every metric."""
        judged = None
        if CLASSES in looked and any(LABELS in metric.needs for metric in metrics):
            judged = self._inputs(self.extractors[CLASSES], self.classified, draw, looked[CLASSES])
        inputs = self._inputs(self.main, self.real, draw, looked[MAIN])
        return score(metrics, inputs, judged, spread=self.plan.repeats == 1, watch=self.watch)

    def _inputs(self, extractor: Extractor, real: Reals, draw: int, looked: Features) -> Inputs:
        return Inputs(
            extractor,
            data=self.reference,
            real=real,
            features=looked.features,
            logits=looked.logits,
            images=self.plan.source(draw, 0),
            kid_subsets=kid.SUBSETS,
            seed=self.plan.seed,
            asked=self._asked(draw),
            codes=self.plan.codes(draw),
            sets=self,
            encoder=self.plan.encoder,
            watch=self.watch,
        )

    def _asked(self, draw: int) -> torch.Tensor | None:
        asked = self.plan.asked(draw, self.plan.n)
        return None if asked is None else torch.from_numpy(asked)

    @cached_property
    def classified(self) -> Reals:
        """The classifier's features of the real images."""
        with self.watch("classes"):
            return real_features(self.extractors[CLASSES], self.reference, self.plan.cache, note=self.watch.note)

    def _directions(self) -> dict[str, bool]:
        """Return for each value, by name, True if higher is better."""
        return {
            name + ending(metric, self._extractor(metric), self.plan.n, self.reference.split): higher
            for metric in self.metrics
            for name, higher in metric.directions.items()
        }

    @property
    def trained_on(self) -> ImageSet:
        return self.plan.trained_on

    @property
    def held_out(self) -> ImageSet | None:
        return self.plan.held_out

    @property
    def source(self) -> Source:
        """The generated images of the first draw."""
        return self.plan.source(0, 0)

    def real_images(self, which: str) -> ImageSet:
        return self.plan.real(which)

    def reals(self, which: str) -> Reals:
        crew = Crew(self.plan.devices, partial(share_reals, self.plan, which))
        with _threads_shared(self.plan.devices):
            return real_features(self.main, self.plan.real(which), self.plan.cache, crew, self.watch.note)

    def generated(self, count: int) -> ImageSet:
        plan = self.plan
        if isinstance(plan.subject, SampleFiles):
            return plan.images
        source = self.source
        step = at_a_time(self.main)
        parts = [source(start, min(step, count - start)).cpu() for start in range(0, count, step)]
        name, run = f"the generator of {plan.subject.run.name}", str(plan.subject.run)
        images, labels = torch.cat(parts).numpy(), plan.asked(0, count)
        classes = None if labels is None else plan.reference.classes
        return ImageSet(name, images, labels, classes, "all", run, self.subject["sha256"], plan.trained_on.flip)

    def _settings(self) -> dict[str, Any]:
        return {
            **protocol(self.main, self.reference, self.plan.n, kid.SUBSETS),
            "precision": "float32 images and features, float64 statistics",
            "version": VERSION,
        }

    def _work_key(self) -> str:
        looked = {
            name: (extractor.name, extractor.digest, extractor.resize, extractor.arithmetic)
            for name, extractor in self.extractors.items()  # a network's layers share its digest
        }
        settings = [VERSION, self.subject["sha256"], self.plan.n, self.plan.seed, looked]
        settings += [self.reference.ground] if self.reference.ground else []
        settings += [BY_SHARES] if "labels" in self.subject else []
        text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _over_draws(scored: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return each score's mean over the draws, and its sample standard deviation (n - 1)."""
    names = scored[0]
    return (
        {name: statistics.fmean(one[name] for one in scored) for name in names},
        {name: statistics.stdev(one[name] for one in scored) for name in names if "_std" not in name},
    )
