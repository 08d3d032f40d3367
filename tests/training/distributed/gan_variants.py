"""Small GANs of every kind that ranks exchange something for."""

from gantry.models import losses
from gantry.models.augment.ada import ADA
from gantry.models.augment.diffaugment import DiffAugment
from gantry.models.consistency import BalancedConsistency, LatentConsistency
from gantry.models.growth import Growth
from gantry.models.improved import FeatureMatching, HistoricalAveraging
from gantry.models.lecam import LeCam
from gantry.models.local_gradient import LocalGradientPenalty
from gantry.models.mutual_information import MutualInformation
from gantry.models.networks import (
    conditional_dcgan,
    dcgan,
    minibatch,
    mlp,
    progan,
    structured,
    stylegan2,
    virtual_batch,
)
from gantry.models.penalties import R1, R2, GradientPenalty
from gantry.models.schedules import Cosine
from gantry.models.terms import AuxiliaryClassifier, DataToData, Drift

SHAPE, BATCH, Z, CLASSES = (1, 8, 8), 12, 6, 3
CODES = {"kind": 3, "tilt": [-1.0, 1.0]}
VARIANTS = {
    "wgan_gp": dict(
        generator=lambda: dcgan.Generator(Z, SHAPE, width=4, norm="layer"),
        discriminator=lambda: dcgan.Discriminator(SHAPE, width=4, norm="none"),
        loss=losses.wasserstein,
        n_critic=2,
    ),
    "vanilla": dict(
        generator=lambda: mlp.Generator(Z, SHAPE, norm="none"),
        discriminator=lambda: mlp.Discriminator(SHAPE),
        loss=losses.minimax,
    ),
    "sngan": dict(
        generator=lambda: dcgan.Generator(Z, SHAPE, width=4, norm="none"),
        discriminator=lambda: dcgan.Discriminator(SHAPE, width=4, norm="spectral"),
        loss=losses.hinge,
        n_critic=2,
    ),
    "dcgan": dict(
        generator=lambda: dcgan.Generator(Z, SHAPE, width=4),
        discriminator=lambda: dcgan.Discriminator(SHAPE, width=4),
        loss=losses.non_saturating,
    ),
    "acgan": dict(
        generator=lambda: conditional_dcgan.ConditionalGenerator(Z, SHAPE, CLASSES, width=4, norm="layer"),
        discriminator=lambda: judge("classifier"),
        loss=losses.hinge,
        further=lambda: dict(terms=[AuxiliaryClassifier(), LeCam(start=2)], labels="uniform", generator_batches=2),
    ),
    "reacgan": dict(
        generator=lambda: conditional_dcgan.ConditionalGenerator(Z, SHAPE, CLASSES, width=4, norm="layer"),
        discriminator=lambda: judge("embedding", embedding_dim=8),
        loss=losses.hinge,
        further=lambda: dict(terms=[DataToData()], labels="data", top_k=0.5),
    ),
    "adaptive": dict(
        generator=lambda: dcgan.Generator(Z, SHAPE, width=4, norm="layer"),
        discriminator=lambda: dcgan.Discriminator(SHAPE, width=4, norm="none"),
        loss=losses.non_saturating,
        further=lambda: dict(
            augment=ADA("bgc", p=0.3, interval=2, kimg=0.2),
            penalties=[R1(0.1, every=2, own_step=True)],
            first="generator",
            terms=[BalancedConsistency(), LatentConsistency()],
        ),
    ),
    "acgan, lazily": dict(
        generator=lambda: conditional_dcgan.ConditionalGenerator(Z, SHAPE, CLASSES, width=4, norm="layer"),
        discriminator=lambda: judge("classifier"),
        loss=losses.hinge,
        further=lambda: dict(terms=[AuxiliaryClassifier(every=2)]),
    ),
    "stylegan2": dict(
        generator=lambda: stylegan2.Generator(Z, SHAPE, w_dim=8, width=8, mixing=0.5),
        discriminator=lambda: dcgan.Discriminator(SHAPE, width=4, norm="none"),
        loss=losses.non_saturating,
        further=lambda: dict(first="generator"),
    ),
    "infogan": dict(
        generator=lambda: structured.Generator(Z, SHAPE, width=4, norm="layer", codes=CODES, prior=[-1, 1]),
        discriminator=lambda: structured.Discriminator(SHAPE, CODES, width=4, norm="layer"),
        loss=losses.non_saturating,
        further=lambda: dict(terms=[MutualInformation()]),
    ),
    "progan": dict(  # shares of 12, 6 and 3 images are of groups of 3; the layers computed change at steps 2, 4, 6, 8
        generator=lambda: progan.Generator(Z, SHAPE, width=8),
        discriminator=lambda: progan.Discriminator(SHAPE, width=8, group=3),
        loss=losses.wasserstein,
        further=lambda: dict(growth=Growth(24, 24), penalties=[GradientPenalty()], terms=[Drift()]),
    ),
    "improved": dict(
        generator=lambda: virtual_batch.Generator(Z, SHAPE, width=4, reference=5),
        discriminator=lambda: minibatch.Discriminator(SHAPE, width=4, norm="layer", kernels=4, dims=2),
        loss=losses.non_saturating,
        further=lambda: dict(terms=[FeatureMatching(), HistoricalAveraging(0.1)], generator_reals="next"),
    ),
    "relativistic": dict(
        generator=lambda: dcgan.Generator(Z, SHAPE, width=4, norm="layer"),
        discriminator=lambda: dcgan.Discriminator(SHAPE, width=4, norm="layer"),
        loss=losses.relativistic_average,
        further=lambda: dict(terms=[LocalGradientPenalty()], generator_reals="next", image_shape=SHAPE),
    ),
    "generator first": dict(
        generator=lambda: dcgan.Generator(Z, SHAPE, width=4),
        discriminator=lambda: dcgan.Discriminator(SHAPE, width=4),
        loss=losses.non_saturating,
        further=lambda: dict(first="generator"),
    ),
    "paired": dict(
        generator=lambda: conditional_dcgan.ConditionalGenerator(Z, SHAPE, CLASSES, width=4, norm="layer"),
        discriminator=lambda: judge("projection"),
        loss=losses.relativistic_pairing,
        further=lambda: dict(
            augment=DiffAugment(["color", "translation", "cutout"]),
            penalties=[R1(Cosine(0.1, 0.01, 10)), R2(0.1)],
            labels="paired",
            generator_reals="next",
        ),
    ),
}


def judge(condition, **options):
    """A discriminator that takes labels."""
    kind = conditional_dcgan.ConditionalDiscriminator
    return kind(SHAPE, CLASSES, width=4, norm="none", condition=condition, **options)
