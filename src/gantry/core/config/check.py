"""Checks a config by reading it, before torch is imported, and reports all problems at once.

A rule is a function from the config to lines of text, each beginning with the key at fault. The rules here compare any
config with what `options` declares; each command adds its own.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gantry.core.config.declaration import Option, counts, declared, within
from gantry.core.config.options import Train
from gantry.core.config.schema import HYDRA_KEYS, MISSING, Config, missing_values, read
from gantry.core.config.signatures import Signature
from gantry.core.errors import UserError
from gantry.core.text import did_you_mean

LARGEST_COUNT = 2**31 - 1
Rule = Callable[[Config], Iterator[str]]


def check(cfg: DictConfig, command: type, rules: Sequence[Rule] = ()) -> None:
    """Refuse a composed config that breaks a rule.

    Args:
        cfg: the job's config, without Hydra's own node; interpolations may be unresolved.
        command: the dataclass of its options.
        rules: the command's own rules, checked besides those here.

    Raises:
        UserError: one line for each problem, the dotted key first, with the valid choices.
    """
    options = declared(command)
    cfg = _own(cfg, options)  # interpolations in the rest may not resolve
    problems = list(missing_values(OmegaConf.to_container(cfg, resolve=False)))
    try:
        tree = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        # An interpolation of a missing value fails too; report the missing value alone.
        if not problems:
            raise UserError("\n".join(unresolved(cfg)) or f"{error.full_key}: {_first_line(error)}") from error
    else:
        config = read(tree, options)
        problems += config.problems + [problem for rule in (*RULES, *rules) for problem in rule(config)]
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def refuse_absent(cfg: DictConfig, command: type) -> None:
    """Refuse a config that lacks a top-level option, so that later code can read them all.

    Raises:
        UserError: naming them.
    """
    needed = [key for key, option in declared(command).items() if "." not in key and not option.optional]
    if lacking := [f"{key}: missing" for key in needed if key not in cfg]:
        raise UserError("\n".join(lacking))


def _own(cfg: DictConfig, options: dict[str, Option]) -> DictConfig:
    """Return the config without the options that only train.py declares, such as the name of a new run."""
    tree: Any = OmegaConf.to_container(cfg, resolve=False)
    for key in declared(Train).keys() - options.keys():
        group, _, name = key.rpartition(".")
        inside = tree.get(group) if group else tree
        if isinstance(inside, dict):
            inside.pop(name, None)
    return OmegaConf.create(tree)


def unresolved(cfg: DictConfig) -> list[str]:
    """Return a line for each interpolation that cannot be resolved, except those that only refer to another such."""
    failing = list(_failing(cfg, ""))
    keys = {key for key, _, _ in failing}
    return [
        f"{key}: {said}" for key, text, said in failing if not any(f"${{{other}}}" in text for other in keys - {key})
    ]


def _failing(node: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """Yield the key, the text and the error of each interpolation that fails."""
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


def shown(value: object) -> str:
    """Return a value as it is typed on the command line."""
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))


def is_number(value: object) -> bool:
    """Return True for an int or a float, but not for a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def unknown_options(config: Config) -> Iterator[str]:
    """Report options that a `_target_` does not take, or that its caller passes."""
    for key, target in config.targets.items():
        if target.signature is None or target.signature.var_keyword:
            continue
        names = _own_options(target.signature, partial=bool(target.options.get("_partial_")))
        names = [name for name in names if name not in _reserved(config, key)]
        reserved = config.declared[key].reserved if key in config.declared else ()
        reasons = reserved if isinstance(reserved, Mapping) else {}
        for name in target.options:
            if name in reasons:
                yield f"{key}.{name}: {reasons[name]}"
            elif name not in HYDRA_KEYS and name not in names:
                valid = f"its options: {', '.join(names)}" if names else "it has none"
                yield f"{key}.{name}: no such option{did_you_mean(name, names)} ({valid})"


def _reserved(config: Config, key: str) -> tuple[str, ...]:
    return tuple(config.declared[key].reserved) if key in config.declared else ()


def groups(options: dict[str, Option]) -> dict[str, list[Option]]:
    """Return the groups without a `_target_` and the options directly in each; "" is the top."""
    found: dict[str, list[Option]] = {"": []}
    found |= {key: [] for key, option in options.items() if option.is_group and not option.has_target}
    for key, option in options.items():
        if (group := key.rpartition(".")[0]) in found:
            found[group].append(option)
    return found


def unknown_keys(config: Config) -> Iterator[str]:
    """Report keys added with a + that nothing reads."""
    known = {group: [option.name for option in options] for group, options in groups(config.declared).items()}
    for key in config.options:
        group, _, name = key.rpartition(".")
        if name not in known.get(group, (name,)):
            yield f"{key}: no such option{did_you_mean(name, known[group])} (valid: {', '.join(known[group])})"


def absent_keys(config: Config) -> Iterator[str]:
    """Report options deleted with a ~, and groups replaced by a single value."""
    for group, options in groups(config.declared).items():
        there = config.value(group) if group else {key: 0 for key in config.options if "." not in key}
        if isinstance(there, dict):
            needed = () if group and config.declared[group].may_be_empty and not there else options
            yield from (f"{o.key}: missing" for o in needed if o.name not in there and not o.optional)
        elif group in config.options:
            yield f"{group}: takes options ({', '.join(o.name for o in options)}), not {shown(there)}"


def absent_arguments(config: Config) -> Iterator[str]:
    """Report required arguments of a `_target_` that are missing and that its caller does not pass."""
    parts = [option.name for option in config.declared.values() if option.has_target]
    for key, target in config.targets.items():
        if target.signature is None or target.options.get("_partial_") or "_args_" in target.options:
            continue
        given = {*target.options, *_reserved(config, key), *parts}
        for parameter in target.signature.parameters:
            if parameter.required and parameter.name not in given:
                yield f"{key}.{parameter.name}: missing; {target.options['_target_']} needs it"


def empty_text(config: Config) -> Iterator[str]:
    """Report empty text; an empty path would mean the current folder or the root."""
    for key, option in config.options.items():
        if option.value == "" and key != "tracking.uri":
            yield f"{key}: must not be empty"


def _own_options(read: Signature, partial: bool) -> list[str]:
    """Return the names that a config may set: of a partial, the remaining positional arguments are its caller's."""
    parameters = list(read.parameters)
    if partial:
        waits = [p.positional and p.required and p.kind is None for p in parameters]
        leading = [*waits, False].index(False)
        parameters = parameters[min(leading, 1) if read.is_class else leading :]
    return [parameter.name for parameter in parameters]


def wrong_values(config: Config) -> Iterator[str]:
    """Report values that their declaration or annotation does not allow."""
    for key, option in config.options.items():
        only_plain = option.declared is not None and option.declared.kind is not None and not option.declared.built
        built = not only_plain and isinstance(option.value, dict) and "_target_" in option.value
        if option.kind and not built and option.value != MISSING and not option.kind.accepts(option.value):
            closest = did_you_mean(str(option.value), map(str, option.kind.choices))
            yield f"{key}: must be {option.kind}, not {shown(option.value)}{closest}"


def wrong_lists(config: Config) -> Iterator[str]:
    """Report values that should be lists and are not, and members that a list may not have."""
    for key, option in config.options.items():
        if option.declared is None or (items := option.declared.items) is None:
            continue
        valid = ", ".join(map(str, items.choices))
        if not isinstance(option.value, list):  # the characters of a text would be taken for members
            yield f"{key}: takes a list, {key}=[{option.value}]"
        elif valid and not option.value:
            yield f"{key}: name at least one of {valid}"
        else:
            named = [item for item in option.value if not (option.declared.built and _has_target(item))]
            wrong = [item for item in named if not items.accepts(item)]
            said = f"(valid: {valid})" if valid else f"(it takes {items} at each place)"
            yield from (f"{key}: no {item}{did_you_mean(str(item), map(str, items.choices))} {said}" for item in wrong)


def _has_target(item: object) -> bool:
    return isinstance(item, dict) and "_target_" in item


def not_finite(config: Config) -> Iterator[str]:
    """Report numbers that are nan or infinite."""
    for key, option in config.options.items():
        number = option.kind is None or option.kind.accepts(option.value)
        if number and isinstance(option.value, float) and not math.isfinite(option.value):
            yield f"{key}: must be a finite number, not {option.value}"


def out_of_range(config: Config) -> Iterator[str]:
    """Report numbers outside their range; the default is 1 to 2**31 - 1 for counts and at least 0 for others."""
    any_sign = [key for key, option in config.declared.items() if option.negative]
    for key, option in config.options.items():
        if not option.ours or not is_number(option.value) or within(key, any_sign):
            continue
        own = option.declared
        whole = counts(option.kind)
        least = own.smallest(option.kind) if own else int(whole)
        most = (own and own.most) or (LARGEST_COUNT if whole else None)
        if option.value < least:
            yield f"{key}: must be at least {least}, not {option.value}"
        elif own and own.above is not None and option.value <= own.above:
            null = own.sentence.partition("; null: ")[2]
            yield f"{key}: must be above {own.above}, not {option.value}" + (f"; null: {null}" if null else "")
        elif most is not None and option.value > most:
            bits = most.bit_length()
            power = f"2**{bits} - 1 = " if most == 2**bits - 1 else ""
            yield f"{key}: must be at most {power}{most}, not {option.value}"


RULES: tuple[Rule, ...] = (
    *(unknown_options, unknown_keys, absent_keys, absent_arguments),
    *(empty_text, wrong_values, wrong_lists, not_finite, out_of_range),
)
