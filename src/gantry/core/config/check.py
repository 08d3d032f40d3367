"""Refuses a config that cannot work, by reading it: before torch is imported, and with every problem at once.

A rule is a function from the config to lines of text, each beginning with the key at fault. A new rule is one
such function, entered in `RULES`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gantry.core.config.schema import HYDRA_KEYS, MISSING, Config, missing_values, read
from gantry.core.config.signatures import Signature
from gantry.core.errors import UserError
from gantry.core.text import did_you_mean

MAY_BE_ZERO = ("seed",)  # whole numbers are counts, at least 1, but for these
MAY_BE_NEGATIVE = ("model.loss",)  # parts of the config whose numbers may be labels, not sizes
LARGEST_SEED = 2**63 - 1
PARTS = (
    "data",
    "model",
    "trainer",
    "metrics.extractor",
    *(f"model.{p}" for p in ("generator", "discriminator", "loss", "optimizer")),
)
MAY_BE_EMPTY = ("tracking", "model.ema")  # groups of options
LARGEST_COUNT = 2**31 - 1
# What the caller passes itself, or what would change what a step is: not the config's to set.
RESERVED = {
    "data": ("cache",),
    "metrics.extractor": ("data", "cache", "device"),
    "extractor": ("data", "cache", "device"),
    "model": ("seed", "batch_size", "accumulate", "compile"),
    "model.generator": ("z_dim", "image_shape"),
    "model.discriminator": ("image_shape",),
    "trainer": (
        *("max_steps", "min_steps", "max_epochs", "min_epochs", "max_time", "fast_dev_run", "overfit_batches"),
        *("limit_train_batches", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
        *("enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
        *("default_root_dir", "use_distributed_sampler", "reload_dataloaders_every_n_epochs"),
    ),
}


def check(cfg: DictConfig, rules: "Sequence[Rule]") -> None:
    """Refuse a composed config that cannot work.

    Args:
        cfg: the job's config, without Hydra's own node; interpolations may be unresolved.
        rules: what to hold it to.

    Raises:
        UserError: one line for each problem, the dotted key first, with the valid choices.
    """
    problems = list(missing_values(OmegaConf.to_container(cfg, resolve=False)))
    try:
        tree = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        # An interpolation of a missing value is the missing value's fault.
        if not problems:
            raise UserError("\n".join(unresolved(cfg)) or f"{error.full_key}: {_first_line(error)}") from error
    else:
        config = read(tree)
        problems += config.problems + [problem for rule in rules for problem in rule(config)]
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def unresolved(cfg: DictConfig) -> list[str]:
    """A line for each interpolation that cannot be resolved, but for those that only refer to another such."""
    failing = list(_failing(cfg, ""))
    keys = {key for key, _, _ in failing}
    return [
        f"{key}: {said}" for key, text, said in failing if not any(f"${{{other}}}" in text for other in keys - {key})
    ]


def _failing(node: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """The key of each interpolation that fails, its text, and why it does."""
    for name in range(len(node)) if OmegaConf.is_list(node) else node:
        full = f"{key}.{name}".lstrip(".")
        if OmegaConf.is_interpolation(node, name):
            try:
                OmegaConf.to_container(OmegaConf.create([node[name]]), resolve=True)
            except OmegaConfBaseException as error:
                yield full, str(node._get_node(name)._value()), _first_line(error)
        elif not OmegaConf.is_missing(node, name) and OmegaConf.is_config(child := node[name]):
            yield from _failing(child, full)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rpartition("raised while resolving interpolation: ")[2]


def _show(value: object) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def unknown_options(config: Config) -> Iterator[str]:
    """Options that a `_target_` does not take, or that its caller passes."""
    for key, target in config.targets.items():
        if target.signature is None or target.signature.var_keyword:
            continue
        names = _own_options(target.signature, partial=bool(target.options.get("_partial_")))
        names = [name for name in names if name not in RESERVED.get(key, ())]
        for name in target.options:
            if name not in HYDRA_KEYS and name not in names:
                valid = f"its options: {', '.join(names)}" if names else "it has none"
                yield f"{key}.{name}: no such option{did_you_mean(name, names)} ({valid})"


def absent_keys(groups: Mapping[str, Sequence[str]]) -> "Rule":
    """Options taken away with a ~, or a whole group of them replaced by one value; the rule for these groups."""

    def rule(config: Config) -> Iterator[str]:
        for group, names in groups.items():
            there = config.value(group) if group else {key: 0 for key in config.options if "." not in key}
            if isinstance(there, dict):
                needed = () if group in MAY_BE_EMPTY and not there else names
                yield from (f"{group}.{name}: missing".lstrip(".") for name in needed if name not in there)
            elif group in config.options:
                yield f"{group}: takes options ({', '.join(names)}), not {_show(there)}"

    return rule


def absent_arguments(config: Config) -> Iterator[str]:
    """What a `_target_` cannot do without, and its caller does not pass."""
    for key, target in config.targets.items():
        if target.signature is None or target.options.get("_partial_") or "_args_" in target.options:
            continue
        given = {*target.options, *RESERVED.get(key, ()), *(part.rpartition(".")[2] for part in PARTS)}
        for parameter in target.signature.parameters:
            if parameter.required and parameter.name not in given:
                yield f"{key}.{parameter.name}: missing; {target.options['_target_']} needs it"


def empty_text(config: Config) -> Iterator[str]:
    """An empty path would be the current folder or the root."""
    for key, option in config.options.items():
        if option.value == "" and key != "tracking.uri":
            yield f"{key}: must not be empty"


def _own_options(read: Signature, partial: bool) -> list[str]:
    """The names that config may set: of a partial, the arguments it still waits for are its caller's."""
    parameters = list(read.parameters)
    if partial:
        waits = [p.positional and p.required and p.kind is None for p in parameters]
        leading = [*waits, False].index(False)
        parameters = parameters[min(leading, 1) if read.is_class else leading :]
    return [parameter.name for parameter in parameters]


def wrong_values(config: Config) -> Iterator[str]:
    """Values that their annotation does not allow."""
    for key, option in config.options.items():
        if key in ("trainer.precision", "trainer.accelerator"):
            continue  # see `wrong_trainer`
        built = isinstance(option.value, dict) and "_target_" in option.value
        if option.kind and not built and option.value != MISSING and not option.kind.accepts(option.value):
            closest = did_you_mean(str(option.value), map(str, option.kind.choices))
            yield f"{key}: must be {option.kind}, not {_show(option.value)}{closest}"


def not_finite(config: Config) -> Iterator[str]:
    """Numbers that are nan or infinite."""
    for key, option in config.options.items():
        number = option.kind is None or option.kind.accepts(option.value)
        if number and isinstance(option.value, float) and not math.isfinite(option.value):
            yield f"{key}: must be a finite number, not {option.value}"


def out_of_range(least: Mapping[str, int]) -> "Rule":
    """Counts below 1 (or what `least` says of their key) or beyond all sense, and numbers below 0; the rule for it."""

    def rule(config: Config) -> Iterator[str]:
        for key, option in config.options.items():
            if not option.ours or not _is_number(option.value) or key.startswith(MAY_BE_NEGATIVE):
                continue
            counts = option.kind is not None and float not in option.kind.types and int in option.kind.types
            smallest = least.get(key, int(counts and option.name not in MAY_BE_ZERO))
            if option.value < smallest:
                yield f"{key}: must be at least {smallest}, not {option.value}"
            elif counts and option.value > LARGEST_COUNT and option.name != "seed":
                yield f"{key}: must be at most 2**31 - 1 = {LARGEST_COUNT}, not {option.value}"

    return rule


def seed_too_large(config: Config) -> Iterator[str]:
    """The seed is one signed 64-bit number."""
    if _is_number(seed := config.value("seed")) and seed > LARGEST_SEED:
        yield f"seed: must be at most 2**63 - 1 = {LARGEST_SEED}, not {seed}"


Rule = Callable[[Config], Iterator[str]]
