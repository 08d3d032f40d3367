"""A network to measure with, and what tests of measuring change of a plan."""

import dataclasses

from torch import nn

from gantry.evaluation.features import CHUNK
from gantry.evaluation.request import Plan
from gantry.runs.generators import GeneratorFiles, GeneratorSource

CHEAP = ("fid", "kid", "inception_score", "precision_recall")
N = CHUNK + 100


class Looks(nn.Module):
    """Features: the mean of each 2x2 square. Logits: five of them."""

    def forward(self, images):
        features = nn.functional.avg_pool2d(images.float() / 255, 2).flatten(1)
        return features, 8 * features[:, 4:9]


def plan_of(run, cache, **changes):
    """A plan of the digits for the best generator in a run's folder."""
    plan = Plan(
        protocol="quick",
        official=False,
        data={"_target_": "gantry.data.sources.digits"},
        max_images=None,
        split="train",
        max_real=None,
        extractor={"_target_": "gantry.evaluation.extractors.classifier.classifier"},
        n=N,
        repeats=1,
        seed=0,
        measures=CHEAP,
        subject=GeneratorFiles(run, "best", False, ("gantry.models.networks.",)),
        cache=cache,
        accelerator="cpu",
        devices=1,
    )
    return with_(plan, **changes)


def with_(plan, **changes):
    return dataclasses.replace(plan, **changes)


def images_of(plan, count=N, first=0):
    network = plan.subject.load()
    return GeneratorSource(network, 6, plan.seed, first, count)(0, count)
