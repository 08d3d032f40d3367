"""Refuses a config that cannot work, by reading it: before torch is imported, and with every problem at once.

A rule is a function from the config to lines of text, each beginning with the key at fault. A new rule is one
such function, entered in `RULES`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gantry.definitions import did_you_mean
from gantry.distributed.place import AUTO, find_place, ranks
from gantry.errors import UserError
from gantry.options import HYDRA_KEYS, MISSING, Config, missing_values, read
from gantry.signatures import Signature
from gantry.tracking.store import locate

MAY_BE_ZERO = ("seed",)  # whole numbers are counts, at least 1, but for these
MAY_BE_NEGATIVE = ("model.loss",)  # parts of the config whose numbers may be labels, not sizes
LARGEST_SEED = 2**63 - 1
SMALLEST, LARGEST, MULTIPLE = 8, 128, 4  # pixels of an image's side that every network can make
INPUT_GRADIENT = ("gantry.penalties.GradientPenalty", "gantry.penalties.R1", "gantry.penalties.R2")
PARTS = (
    "data",
    "model",
    "trainer",
    "metrics.extractor",
    *(f"model.{p}" for p in ("generator", "discriminator", "loss", "optimizer")),
)
# What there is where no signature says so.
GROUPS = {
    "": (
        *("data", "model", "metrics", "trainer", "tracking", "paths", "sweep", "resume", "checkpoint", "guard"),
        *("steps", "batch_size", "accumulate", "compile", "seed", "log_every", "max_images"),
    ),
    "metrics": ("every", "n_generated", "raw", "extractor"),
    "tracking": ("uri", "experiment", "run_name", "close_timeout"),
    "paths": ("root", "cache"),
    "checkpoint": ("every", "keep", "max_failures"),
    "guard": ("every", "policy", "max_rollbacks"),
    "sweep": ("jobs", "timeout", "max_failures", "resume"),
    "model.ema": ("half_life", "ramp_up"),
}
EVALUATION_GROUPS = {
    "": (
        *("run", "images", "n", "repeats", "seed", "generator", "raw", "trusted", "measures", "accelerator", "devices"),
        *("out", "paths", "protocol", "extractor", "tracking"),
    ),
    "protocol": ("name", "n", "split", "max_real", "official", "repeats"),
    "tracking": ("uri", "experiment"),
    "paths": ("cache",),
}
SAMPLE_GROUPS = {
    "": (
        *("run", "generator", "raw", "trusted", "interpolate", "latent_grid", "project", "export", "register", "ui"),
        *("n", "seed", "truncation", "out", "batch_size", "frames", "directions", "extent", "mask", "formats"),
        *("licence", "metric", "port", "accelerator", "devices", "tracking", "paths"),
    ),
    "tracking": ("uri", "experiment"),
    "paths": ("cache",),
}
MAY_BE_EMPTY = ("tracking", "model.ema")  # groups of options
LARGEST_COUNT = 2**31 - 1
LEAST = {"metrics.n_generated": 10, "sweep.timeout": 1}  # an image for each split of the Inception Score; seconds
EVALUATION_LEAST = {"n": 30}  # two images for each point of FID_infinity
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")
ACCELERATORS = ("auto", "cpu", "gpu", "mps")
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
        *("logger", "callbacks", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
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


def unknown_keys(config: Config) -> Iterator[str]:
    """Keys added with a + that nothing reads."""
    for key in config.options:
        group, _, name = key.rpartition(".")
        if name not in GROUPS.get(group, (name,)):
            yield f"{key}: no such option{did_you_mean(name, GROUPS[group])} (valid: {', '.join(GROUPS[group])})"


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


def no_gradient_left(config: Config) -> Iterator[str]:
    """A gradient clipped to nothing never moves a weight."""
    if _is_number(norm := config.value("model.max_grad_norm")) and norm == 0:
        yield "model.max_grad_norm: must be above 0, not 0; null clips nothing"


def wrong_image_size(config: Config) -> Iterator[str]:
    """Sizes that the networks cannot reach by doubling a start of 4, 5, ... pixels."""
    size = config.value("data.image_size")
    if _is_number(size) and (size % MULTIPLE or not SMALLEST <= size <= LARGEST):
        below = min(max(int(size) // MULTIPLE * MULTIPLE, SMALLEST), LARGEST)
        near = dict.fromkeys((below, min(below + MULTIPLE, LARGEST) if below < size else below))
        yield (
            f"data.image_size: must be a multiple of {MULTIPLE} from {SMALLEST} to {LARGEST}, not {size} "
            f"(nearest: {', '.join(map(str, near))})"
        )


def wrong_optimizer(config: Config) -> Iterator[str]:
    """Rates and decays that torch would refuse only after it has been imported."""
    for key, target in config.targets.items():
        if not key.endswith("optimizer"):
            continue
        for name, value in target.options.items():
            if name == "lr" and not (_is_number(value) and value > 0):
                yield f"{key}.lr: must be a number above 0, not {_show(value)}"
            elif name == "betas" and isinstance(value, list):
                if len(value) != 2 or not all(_is_number(beta) and 0 <= beta < 1 for beta in value):
                    yield f"{key}.betas: must be two numbers from 0 to below 1, not {value}"
            elif name != "lr" and _is_number(value) and value < 0:
                yield f"{key}.{name}: must be at least 0, not {value}"


def part_without_target(config: Config) -> Iterator[str]:
    """`model.loss=hinge`, where it takes `model.loss._target_=gantry.losses.hinge`; or no loss at all."""
    for key in PARTS:
        if key not in config.options:
            yield f"{key}: missing; {key}._target_=package.module.name says what it is"
        elif key not in config.targets:
            value = config.options[key].value
            if not isinstance(value, dict):
                yield f"{key}: takes a _target_ ({key}._target_=package.module.name), not {_show(value)}"


def penalty_under_batch_norm(config: Config) -> Iterator[str]:
    """Under BatchNorm a logit depends on every image of the batch (Gulrajani et al. 2017, section 4)."""
    penalties = [
        target.options["_target_"].rpartition(".")[2]
        for key, target in config.targets.items()
        if key.startswith("model.penalties.") and target.options["_target_"] in INPUT_GRADIENT
    ]
    if penalties and config.value("model.discriminator.norm") == "batch":
        read = config.targets["model.discriminator"].signature
        norm = read.get("norm") if read else None
        choices = [str(c) for c in norm.kind.choices if c != "batch"] if norm and norm.kind else ["none"]
        yield (
            f"model.discriminator.norm: under BatchNorm an image has no gradient of its own, which "
            f"{' and '.join(penalties)} needs; choose {', '.join(choices)} (model.discriminator.norm=none)"
        )


def sigmoid_at_the_critic(config: Config) -> Iterator[str]:
    """The losses are functions of logits; a Wasserstein critic is unbounded."""
    for key, option in config.options.items():
        asked = "sigmoid" in option.name.lower() and option.value not in (None, False)
        asked = asked or (isinstance(option.value, str) and "sigmoid" in option.value.lower())
        if key.startswith("model.discriminator.") and asked:
            yield f"{key}: the losses work on the discriminator's raw output, without a sigmoid; remove it"


def batch_norm_of_one(config: Config) -> Iterator[str]:
    """BatchNorm has no variance to divide by in a batch of one."""
    normed = [n for n in ("generator", "discriminator") if config.value(f"model.{n}.norm") == "batch"]
    trainer = config.value("trainer") or {}
    devices, together = trainer.get("devices"), trainer.get("sync_batchnorm", False)
    share = devices if isinstance(devices, int) and "strategy" in trainer and not together else 1
    if normed and config.value("batch_size") == share:
        hint = " on each device; trainer.sync_batchnorm=true takes the whole batch" if share > 1 else ""
        yield f"batch_size: must be at least {2 * share} with BatchNorm (model.{normed[0]}.norm=batch){hint}"


def wrong_devices(config: Config) -> Iterator[str]:
    """Ranks that nobody has started, or that cannot share the batch."""
    trainer = config.value("trainer")
    if not isinstance(trainer, dict):
        return
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    for key, number in (("devices", devices), ("num_nodes", nodes)):
        if isinstance(number, int) and (isinstance(number, bool) or number < 1) and (key, number) != ("devices", -1):
            yield f"trainer.{key}: must be at least 1, not {_show(number)}"
            return
    if isinstance(devices, str) and devices not in AUTO:
        yield f"trainer.devices: must be a number, a list of GPUs' numbers or auto, not {_show(devices)}"
        return
    if not isinstance(nodes, int) or not isinstance(devices, int | list | str):
        return  # `wrong_values` says so
    if isinstance(strategy := trainer.get("strategy"), dict) and strategy.get("static_graph"):
        yield "trainer.strategy.static_graph: leave it out; under it the ranks would exchange nothing"
    place = find_place()
    count = ranks(trainer, place)
    start = f"trainer=ddp trainer.devices={place.local_world_size}"
    if "strategy" not in trainer:
        if place.world_size > 1:
            machines = place.world_size // place.local_world_size
            yield f"trainer: {place.by} has started {place.world_size} ranks; use {start} trainer.num_nodes={machines}"
        elif devices not in AUTO and count > 1:
            key = "num_nodes" if nodes > 1 else "devices"
            yield f"trainer.{key}: {count} ranks need trainer=ddp (trainer=ddp trainer.{key}={_show(trainer[key])})"
        return
    if place.by != "nobody" and count != place.world_size:
        yield (
            f"trainer.devices: {_show(devices)} on {nodes} machines (trainer.num_nodes) are {count} ranks, "
            f"but {place.by} has started {place.world_size}"
        )
    elif place.by == "nobody" and nodes > 1:
        yield (
            f"trainer.num_nodes: {nodes} machines need torchrun or srun to start their ranks, such as, on each: "
            f"torchrun --nnodes={nodes} --node-rank=<0, 1, ...> --nproc-per-node={count // nodes} "
            f"--master-addr=<the first's address> --master-port=29500 train.py ..."
        )
    elif _is_number(size := config.value("batch_size")) and size > 0 and size % count:
        nearest = max(round(size / count), 1) * count
        yield (
            f"batch_size: {size} cannot be shared by {count} ranks: it counts the images of all of them "
            f"and must be a multiple of {count}, such as {nearest}"
        )


def wrong_trainer(config: Config) -> Iterator[str]:
    """Lightning would say so only after seconds, or while training."""
    for name, choices in (("precision", PRECISIONS), ("accelerator", ACCELERATORS)):
        value = config.value(f"trainer.{name}")
        if f"trainer.{name}" in config.options and value not in choices:
            closest = did_you_mean(str(value), choices)
            yield f"trainer.{name}: must be one of {', '.join(choices)}, not {_show(value)}{closest}"


def wrong_store(config: Config) -> Iterator[str]:
    """MLflow's stores: a folder, a SQLite file, a server or a data base."""
    if "tracking.uri" in config.options:
        uri = config.value("tracking.uri")
        try:
            locate(uri if isinstance(uri, str) else "")
        except UserError as error:
            yield f"tracking.uri: {str(error).removeprefix('tracking.uri')[1:]}"


Rule = Callable[[Config], Iterator[str]]
RULES: tuple[Rule, ...] = (
    unknown_options,
    unknown_keys,
    absent_keys(GROUPS),
    absent_arguments,
    empty_text,
    wrong_values,
    not_finite,
    out_of_range(LEAST),
    seed_too_large,
    no_gradient_left,
    wrong_image_size,
    wrong_optimizer,
    part_without_target,
    penalty_under_batch_norm,
    sigmoid_at_the_critic,
    batch_norm_of_one,
    wrong_devices,
    wrong_trainer,
    wrong_store,
)


def check_run(cfg: DictConfig) -> None:
    """Refuse a composed config of train.py that cannot work.

    Raises:
        UserError: see `check`.
    """
    check(cfg, RULES)


EVALUATION_RULES: tuple[Rule, ...] = (
    absent_keys(EVALUATION_GROUPS),
    absent_arguments,
    *(unknown_options, empty_text, wrong_values, not_finite, out_of_range(EVALUATION_LEAST)),
    *(seed_too_large, wrong_store),
)
SAMPLE_RULES: tuple[Rule, ...] = (
    absent_keys(SAMPLE_GROUPS),
    *(empty_text, wrong_values, not_finite, out_of_range({}), seed_too_large, wrong_store),
)
