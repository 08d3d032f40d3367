"""Refuses variants whose labels, terms or schedules cannot work; each rule reports its problems."""

import re
from collections.abc import Iterator

from gantry.core.config.check import is_number, shown
from gantry.core.config.schema import Config

SCHEDULES = "gantry.models.schedules."
UNITS = {"steps": "generator steps", "images": "images"}
SCHEDULED = re.compile(  # the keys of numbers that may be schedules
    r"model\.((discriminator_)?optimizer\.(\w+(?<!betas)|betas\.\d+)|(augment|(penalties|terms)\.\d+)\.(?!every$)\w+"
    r"|ema\.half_life|top_k)(\.then)*"
)
WITHOUT_LABELS = {"gantry.data.sources.celeba": "celeba"}


def is_schedule(value: object) -> bool:
    """Return True for a node that makes a number which changes in the course of training."""
    return isinstance(value, dict) and "_target_" in value


def numbers_of(node: dict[str, object]) -> list[float]:
    """Return the numbers between which a schedule's lie."""
    found = [node.get(name) for name in ("value", "start", "end", "then")]
    below = [number for one in found if isinstance(one, dict) for number in numbers_of(one)]
    return [one for one in found if isinstance(one, int | float)] + below


def wrong_schedule(config: Config) -> Iterator[str]:
    """Report schedules of a length of nothing, or that lead to nothing."""
    for key, target in config.targets.items():
        if not str(target.options["_target_"]).startswith(SCHEDULES):
            continue
        unit = UNITS.get(str(target.options.get("unit", "steps")), "steps")
        for name in ("over", "every"):
            value = target.options.get(name)
            if value is not None and not (is_number(value) and value > 0):
                yield f"{key}.{name}: must be a number of {unit} above 0, not {shown(value)}"
        if not (is_number(then := target.options.get("then", 0)) or is_schedule(then)):
            yield f"{key}.then: must be a number or a schedule, not {shown(then)}"


def schedule_without_use(config: Config) -> Iterator[str]:
    """Report schedules in places where nothing asks for their present number."""
    for key, target in config.targets.items():
        if str(target.options["_target_"]).startswith(SCHEDULES) and not SCHEDULED.fullmatch(key):
            yield (
                f"{key}: is not read as a schedule: give a number. Those of an optimizer, of a penalty, of a term, of "
                "model.augment, model.ema.half_life and model.top_k may be schedules"
            )


def wrong_share(config: Config) -> Iterator[str]:
    """Report shares, of images that count or of a label that is smoothed, that are none."""
    for key, least in (("model.top_k", "above 0 and at most 1"), ("model.loss.smoothing", "from 0 to 1")):
        value = config.value(key)
        if value is None or is_schedule(value):
            continue
        if not is_number(value) or not 0 <= value <= 1 or (value == 0 and "above" in least):
            yield f"{key}: must be a number {least}, not {shown(value)}"


def wrong_codes(config: Config) -> Iterator[str]:
    """Report parts of a latent that are none, or that are longer than the latent together."""
    wrong, entries = [], 0
    for player in ("generator", "discriminator"):
        codes, key = config.value(f"model.{player}.codes"), f"model.{player}.codes"
        if codes is not None and not isinstance(codes, dict):
            wrong.append(f"{key}: takes names, such as {{c1: 10, c2: [-1, 1]}}, not {shown(codes)}")
            continue
        for name, code in (codes or {}).items():
            if player == "generator":
                entries += code if _is_size(code) else 1
            if not _is_size(code) and not _is_interval(code):
                wrong.append(f"{key}.{name}: must be a whole number of at least 2, or [low, high], not {shown(code)}")
    prior, z_dim = config.value("model.generator.prior"), config.value("model.z_dim")
    if prior is not None and not _is_interval(prior):
        wrong.append(f"model.generator.prior: must be [low, high], or null, not {shown(prior)}")
    if not wrong and is_number(z_dim) and entries > z_dim:
        wrong.append(f"model.z_dim: must be at least {entries}, the entries of model.generator.codes, not {z_dim}")
    codes = {player: config.value(f"model.{player}.codes") for player in ("generator", "discriminator")}
    if not wrong and codes["discriminator"] and codes["discriminator"] != codes["generator"]:
        wrong.append("model.discriminator.codes: must be those of the generator: ${model.generator.codes}")
    yield from wrong


def _is_size(code: object) -> bool:
    return type(code) is int and code >= 2


def _is_interval(code: object) -> bool:
    return isinstance(code, list) and len(code) == 2 and all(map(is_number, code)) and code[0] < code[1]


def labels_without_classes(config: Config) -> Iterator[str]:
    """Report networks that take labels on data that is known to have none."""
    takers = [
        name
        for name in ("generator", "discriminator")
        if (target := config.targets.get(f"model.{name}")) and target.signature and target.signature.get("n_classes")
    ]
    data = config.targets.get("data")
    if not takers or data is None:
        return
    source, kind = str(data.options["_target_"]), config.value("data.labels")
    if source in WITHOUT_LABELS or kind == "none":
        without = f"data={WITHOUT_LABELS[source]}" if source in WITHOUT_LABELS else "data.labels=none"
        yield (
            f"model.{takers[0]}: takes labels, and {without} has none: choose data with classes (data=digits, mnist, "
            "fashion_mnist, cifar10, or image_folder with a folder for each class), or a variant without labels"
        )
