"""Flattens the composed config for checking: each option with the values it may have."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gantry.core.config.declaration import Option
from gantry.core.config.definitions import OWN
from gantry.core.config.signatures import Kind, Signature, signature
from gantry.core.errors import UserError

HYDRA_KEYS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
MISSING = "???"


@dataclass(frozen=True)
class Given:
    """One given value, its dotted key, and the values it may have, as far as they are known."""

    key: str
    value: Any
    kind: Kind | None
    ours: bool  # not an option of another package, such as Lightning's Trainer
    declared: Option | None

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]


@dataclass(frozen=True)
class Target:
    """A node with a `_target_`, and its signature, if it can be read."""

    key: str
    options: dict[str, Any]
    signature: Signature | None


@dataclass
class Config:
    """The resolved config, flattened for the rules: its declared options, given values and targets."""

    declared: dict[str, Option]
    options: dict[str, Given]
    targets: dict[str, Target]
    problems: list[str]  # found while reading: targets that do not exist

    def value(self, key: str) -> Any:
        """Return the given value at a dotted key, or else the constant default of its signature, or None."""
        if key in self.options:
            return self.options[key].value
        target, _, name = key.rpartition(".")
        read = self.targets[target].signature if target in self.targets else None
        parameter = read.get(name) if read else None
        return parameter.default if parameter else None


def missing_values(node: Any, key: str = "") -> Iterator[str]:
    """Report mandatory values (`???`) that were not given."""
    if node == MISSING:
        value = "/path" if re.search("folder|root|dir|path|file", key.rpartition(".")[2]) else "..."
        yield f"{key}: must be given ({key}={value})"
    for name, child in _children(node):
        yield from missing_values(child, f"{key}.{name}".lstrip("."))


def read(tree: Any, options: dict[str, Option]) -> Config:
    """Combine the plain config (dicts, lists, scalars) with its declared options and its targets' signatures."""
    config = Config(options, {}, {}, [])
    _read(config, tree, "")
    return config


def _read(config: Config, node: Any, key: str) -> None:
    target = _target(config, node, key) if isinstance(node, dict) and "_target_" in node else None
    ours = target is None or target.options["_target_"].partition(".")[0] == OWN
    for name, child in _children(node):
        if name in HYDRA_KEYS:
            continue
        full = f"{key}.{name}".lstrip(".")
        parameter = target.signature.get(name) if target and target.signature else None
        option = config.declared.get(full)
        kind = (option.kind if option else None) or (parameter.kind if parameter else None)
        config.options[full] = Given(full, child, kind, ours, option)
        _read(config, child, full)


def _target(config: Config, node: dict[str, Any], key: str) -> Target | None:
    dotted = node["_target_"]
    if not isinstance(dotted, str):
        config.problems.append(f"{key}._target_: must be a dotted name, not {dotted!r}")
        return None
    try:
        found = signature(dotted)
    except UserError as error:
        config.problems.append(f"{key}._target_: {error}")
        found = None
    config.targets[key] = Target(key, node, found)
    return config.targets[key]


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        yield from ((str(name), child) for name, child in node.items())
    elif isinstance(node, list):
        yield from ((str(index), child) for index, child in enumerate(node))
