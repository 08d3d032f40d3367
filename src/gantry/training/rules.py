"""Refuses configs of train.py that cannot work; each rule reports its problems."""

from collections.abc import Iterator
from itertools import product

from omegaconf import DictConfig

from gantry.core.config.check import Rule, check, is_number, shown
from gantry.core.config.lightning import PROFILERS
from gantry.core.config.options import Train
from gantry.core.config.schema import Config
from gantry.core.moved import new_name
from gantry.core.processes.ranks import AUTO, find_place, ranks
from gantry.runs.tracking.rules import wrong_store
from gantry.training.extension_rules import wrong_extensions
from gantry.training.variant_rules import (
    is_schedule,
    labels_without_classes,
    numbers_of,
    schedule_without_use,
    wrong_codes,
    wrong_schedule,
    wrong_share,
)

# Of an image's side in pixels, for every network; `gantry.models.networks.blocks.doublings` says why.
SMALLEST, LARGEST = 8, 512
FINE, MULTIPLE, COARSE = 128, 4, 16  # up to FINE a multiple of MULTIPLE, above it of COARSE
SIDES = [*range(SMALLEST, FINE + 1, MULTIPLE), *range(FINE + COARSE, LARGEST + 1, COARSE)]
INPUT_GRADIENT = (
    *(f"gantry.models.penalties.{n}" for n in ("GradientPenalty", "LipschitzPenalty", "DivergencePenalty", "R1", "R2")),
    "gantry.models.local_gradient.LocalGradientPenalty",
)


def wrong_image_size(config: Config) -> Iterator[str]:
    """Report an image size that the networks cannot reach by doubling 4, 5, ... pixels."""
    size = config.value("data.image_size")
    if isinstance(size, list) and (len(size) != 2 or not all(map(is_number, size))):
        yield f"data.image_size: takes one number for a square, or [height,width] such as [48,64], not {size}"
        return
    given = size if isinstance(size, list) else [size]
    if all(map(is_number, given)) and (wrong := [side for side in given if side not in SIDES]):
        near = [_nearest(side) for side in given]
        choices = [[low, high][: 1 if low == high else 2] for low, high in near]
        shown = [f"[{h},{w}]" for h, w in product(*choices)] if len(given) == 2 else map(str, choices[0])
        yield (
            f"data.image_size: must be a multiple of {MULTIPLE} from {SMALLEST} to {FINE}, or a multiple of {COARSE} "
            f"up to {LARGEST}, not {' and '.join(map(str, wrong))} (nearest: {', '.join(shown)})"
        )


def _nearest(side: float) -> tuple[int, int]:
    """Return the nearest valid sides that are at most and at least as long."""
    return max((s for s in SIDES if s <= side), default=SMALLEST), min((s for s in SIDES if s >= side), default=LARGEST)


def wrong_optimizer(config: Config) -> Iterator[str]:
    """Report learning rates and decays that torch would refuse only after its import."""
    for key, target in config.targets.items():
        if not key.endswith("optimizer"):
            continue
        for name, value in target.options.items():
            if is_schedule(value):
                continue
            if name == "lr" and not (is_number(value) and value > 0):
                yield f"{key}.lr: must be a number above 0, not {shown(value)}"
            elif name == "betas" and isinstance(value, list):
                if len(value) != 2 or not all(_is_beta(beta) for beta in value):
                    yield f"{key}.betas: must be two numbers from 0 to below 1, not {value}"
            elif name != "lr" and is_number(value) and value < 0:
                yield f"{key}.{name}: must be at least 0, not {value}"


def _is_beta(value: object) -> bool:
    numbers = numbers_of(value) if isinstance(value, dict) else [value]
    return all(is_number(number) and 0 <= number < 1 for number in numbers)  # type: ignore[operator]


def part_without_target(config: Config) -> Iterator[str]:
    """Report a missing part, or one such as `model.loss=hinge`, which needs `_target_=gantry.models.losses.hinge`."""
    for key, option in config.declared.items():
        if not option.has_target:
            continue
        if key not in config.options:
            yield f"{key}: missing; {key}._target_=package.module.name says what it is"
        elif key not in config.targets:
            value = config.options[key].value
            if not isinstance(value, dict):
                yield f"{key}: takes a _target_ ({key}._target_=package.module.name), not {shown(value)}"


def penalty_under_batch_norm(config: Config) -> Iterator[str]:
    """Report gradient penalties with BatchNorm, which mixes a batch's images (Gulrajani et al. 2017, section 4)."""
    penalties = [
        target.options["_target_"].rpartition(".")[2]
        for key, target in config.targets.items()
        if key.startswith(("model.penalties.", "model.terms."))
        and new_name(target.options["_target_"]) in INPUT_GRADIENT
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
    """Report a sigmoid in the discriminator: the losses are functions of logits; a Wasserstein critic is unbounded."""
    for key, option in config.options.items():
        asked = "sigmoid" in option.name.lower() and option.value not in (None, False)
        asked = asked or (isinstance(option.value, str) and "sigmoid" in option.value.lower())
        if key.startswith("model.discriminator.") and asked:
            yield f"{key}: the losses work on the discriminator's raw output, without a sigmoid; remove it"


def wrong_strategy(config: Config) -> Iterator[str]:
    """Report a strategy of Lightning's by name, which would share a batch, or exchange gradients, in another way."""
    value = (config.value("trainer") or {}).get("strategy")
    if isinstance(value, str):
        yield f"trainer.strategy: takes a _target_, as that of trainer=ddp (trainer=ddp trainer.devices=2), not {value}"


def wrong_profiler(config: Config) -> Iterator[str]:
    """Report a profiler that is neither one of Lightning's names nor a node with a `_target_`."""
    value = (config.value("trainer") or {}).get("profiler")
    if value is not None and value not in PROFILERS and not (isinstance(value, dict) and "_target_" in value):
        yield f"trainer.profiler: must be one of {', '.join(PROFILERS)}, or a _target_, not {shown(value)}"


def batch_norm_of_one(config: Config) -> Iterator[str]:
    """Report BatchNorm with one image per device, which has no variance to divide by."""
    normed = [n for n in ("generator", "discriminator") if config.value(f"model.{n}.norm") == "batch"]
    trainer = config.value("trainer") or {}
    devices, together = trainer.get("devices"), trainer.get("sync_batchnorm", False)
    share = devices if isinstance(devices, int) and "strategy" in trainer and not together else 1
    if normed and config.value("batch_size") == share:
        hint = " on each device; trainer.sync_batchnorm=true takes the whole batch" if share > 1 else ""
        yield f"batch_size: must be at least {2 * share} with BatchNorm (model.{normed[0]}.norm=batch){hint}"


def wrong_devices(config: Config) -> Iterator[str]:
    """Report numbers of devices or machines that do not fit the started ranks or the batch size."""
    trainer = config.value("trainer")
    if not isinstance(trainer, dict):
        return
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    for key, number in (("devices", devices), ("num_nodes", nodes)):
        if isinstance(number, int) and (isinstance(number, bool) or number < 1) and (key, number) != ("devices", -1):
            yield f"trainer.{key}: must be at least 1, not {shown(number)}"
            return
    if isinstance(devices, str) and devices not in AUTO:
        yield f"trainer.devices: must be a number, a list of GPUs' numbers or auto, not {shown(devices)}"
        return
    if not isinstance(nodes, int) or not isinstance(devices, int | list | str):
        return  # `wrong_values` reports it
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
            yield f"trainer.{key}: {count} ranks need trainer=ddp (trainer=ddp trainer.{key}={shown(trainer[key])})"
        return
    if place.by != "nobody" and count != place.world_size:
        yield (
            f"trainer.devices: {shown(devices)} on {nodes} machines (trainer.num_nodes) are {count} ranks, "
            f"but {place.by} has started {place.world_size}"
        )
    elif place.by == "nobody" and nodes > 1:
        yield (
            f"trainer.num_nodes: {nodes} machines need torchrun or srun to start their ranks, such as, on each: "
            f"torchrun --nnodes={nodes} --node-rank=<0, 1, ...> --nproc-per-node={count // nodes} "
            f"--master-addr=<the first's address> --master-port=29500 train.py ..."
        )
    elif is_number(size := config.value("batch_size")) and size > 0 and size % count:
        nearest = max(round(size / count), 1) * count
        yield (
            f"batch_size: {size} cannot be shared by {count} ranks: it counts the images of all of them "
            f"and must be a multiple of {count}, such as {nearest}"
        )


def origin_without_use(config: Config) -> Iterator[str]:
    """Report a choice of networks to load where nothing is loaded."""
    if config.value("init_from") is None and config.value("init_networks") == "generator":
        yield "init_networks: belongs to init_from, which names the trained weights"


RULES: tuple[Rule, ...] = (
    *(wrong_image_size, wrong_optimizer, part_without_target, penalty_under_batch_norm, sigmoid_at_the_critic),
    *(
        wrong_schedule,
        schedule_without_use,
        wrong_share,
        wrong_codes,
        labels_without_classes,
        batch_norm_of_one,
        wrong_devices,
        wrong_strategy,
        wrong_profiler,
        wrong_extensions,
        wrong_store,
    ),
    origin_without_use,
)


def check_run(cfg: DictConfig) -> None:
    """Check a composed config of train.py.

    Raises:
        UserError: the config cannot work; see `check`.
    """
    check(cfg, Train, RULES)
