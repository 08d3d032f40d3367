"""Where the project is, and which variants it has."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VARIANTS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml") if path.stem != "base")
# Those whose tests take seconds each, as in processes of their own, are run for these by default.
COMMON = ("cgan", "dcgan", "lsgan", "r3gan", "sngan", "vanilla", "wgan", "wgan_gp")
EACH = [pytest.param(name, marks=() if name in COMMON else pytest.mark.slow) for name in VARIANTS]


def widths(variant, width=4):
    """The overrides that make a variant's networks small; those of vanilla have one size."""
    if variant == "vanilla":
        return []
    return [f"model.generator.width={width}", f"model.discriminator.width={width}", *SMALL.get(variant, [])]


# Of variants whose latents have codes: those that fit into 6 entries.
FEW_CODES = {"infogan": ["model.generator.codes.c1=3"]}
SMALL = {
    "progan": ["model.z_dim=8", "model.growth.stable=12", "model.growth.fade=18"],  # new layers after two steps of 6
    "reacgan": ["model.discriminator.embedding_dim=4"],
    "improved": ["model.generator.reference=4", "model.discriminator.kernels=3"],
    "r3gan_full": ["model.generator.blocks=1", "model.discriminator.blocks=1"],
    "stylegan2": ["model.z_dim=8", "model.generator.w_dim=8", "batch_size=8"],
}
