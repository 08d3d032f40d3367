"""What a config of evaluate.py must hold."""

from gantry.core.config.check import (
    Rule,
    absent_arguments,
    absent_keys,
    empty_text,
    not_finite,
    out_of_range,
    seed_too_large,
    unknown_options,
    wrong_values,
)
from gantry.runs.tracking.rules import wrong_store

EVALUATION_GROUPS = {
    "": (
        *("run", "images", "n", "repeats", "seed", "generator", "raw", "trusted", "measures", "accelerator", "devices"),
        *("out", "paths", "protocol", "extractor", "tracking"),
    ),
    "protocol": ("name", "n", "split", "max_real", "official", "repeats"),
    "tracking": ("uri", "experiment"),
    "paths": ("cache",),
}
EVALUATION_LEAST = {"n": 30}  # two images for each point of FID_infinity
EVALUATION_RULES: tuple[Rule, ...] = (
    absent_keys(EVALUATION_GROUPS),
    absent_arguments,
    *(unknown_options, empty_text, wrong_values, not_finite, out_of_range(EVALUATION_LEAST)),
    *(seed_too_large, wrong_store),
)
