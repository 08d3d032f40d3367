"""What a config of evaluate.py must hold."""

from collections.abc import Iterator

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
from gantry.core.config.schema import Config
from gantry.core.text import did_you_mean
from gantry.evaluation.metrics import MEASURES
from gantry.runs.tracking.rules import wrong_store


def wrong_measures(key: str) -> Rule:
    """Metrics that there are not; the rule for the list at `key`. What has a `_target_` other rules look at."""

    def rule(config: Config) -> Iterator[str]:
        if key not in config.options:
            return
        if not isinstance(given := config.value(key), list):  # whose letters would be taken for a list
            yield f"{key}: takes a list, {key}=[{given}]"
            return
        if not given:
            yield f"{key}: name at least one of {', '.join(MEASURES)}"
        for one in given:
            if not (isinstance(one, dict) and "_target_" in one) and one not in MEASURES:
                yield f"{key}: no {one}{did_you_mean(str(one), MEASURES)} (valid: {', '.join(MEASURES)})"

    return rule


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
    *(seed_too_large, wrong_store, wrong_measures("measures")),
)
