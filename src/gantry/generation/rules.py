"""What a config of sample.py must hold."""

from gantry.core.config.check import (
    Rule,
    absent_keys,
    empty_text,
    not_finite,
    out_of_range,
    seed_too_large,
    wrong_values,
)
from gantry.runs.tracking.rules import wrong_store

SAMPLE_GROUPS = {
    "": (
        *("run", "generator", "raw", "trusted", "interpolate", "latent_grid", "project", "export", "register", "ui"),
        *("n", "seed", "truncation", "out", "batch_size", "frames", "directions", "extent", "mask", "formats"),
        *("licence", "metric", "port", "accelerator", "devices", "tracking", "paths"),
    ),
    "tracking": ("uri", "experiment"),
    "paths": ("cache",),
}
SAMPLE_RULES: tuple[Rule, ...] = (
    absent_keys(SAMPLE_GROUPS),
    *(empty_text, wrong_values, not_finite, out_of_range({}), seed_too_large, wrong_store),
)
