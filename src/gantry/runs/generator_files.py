"""Writes and reads a trained generator: weights as safetensors, the class and its arguments as JSON.

Both files may come from untrusted sources. Reading them runs only trusted classes, no other code, and allocates no more
memory than the files themselves have.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from gantry.core.config.signatures import signature
from gantry.core.config.trust import is_trusted
from gantry.core.errors import UserError
from gantry.core.safe_load import reason
from gantry.core.text import did_you_mean
from gantry.data.alpha import RGBA, SAID
from gantry.models.labels import Classes, taken_by
from gantry.models.uninitialised import Uninitialised
from gantry.runs.generator_metadata import GENERATOR_CONFIG, LARGEST_CONFIG, WEIGHTS, unfit

TRUSTED = "gantry.models.networks."


def save_generator(
    folder: Path, network: nn.Module, config: dict[str, Any], step: int, classes: Classes | None = None
) -> None:
    """Write `network` at generator step `step` and `config` (`_target_` and its arguments) to `folder`.

    Each file is written atomically. The weights' metadata say the step, of a network that takes labels the names and
    shares of its `classes`, and of images with alpha what the channels are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    # Not `save_file`, which makes files readable by their owner only.
    about = {"step": str(step)} | ({"channels": SAID} if (config.get("image_shape") or [0])[0] == RGBA else {})
    if classes is not None and "labels" in taken_by(network):
        about |= {"classes": json.dumps(classes.names), "class_shares": json.dumps(classes.shares)}
    (folder / f".{WEIGHTS}").write_bytes(save(weights, metadata=about))
    (folder / f".{GENERATOR_CONFIG}").write_text(json.dumps(config, indent=2) + "\n")
    for name in (WEIGHTS, GENERATOR_CONFIG):
        (folder / f".{name}").replace(folder / name)


def load_generator(folder: Path, trusted: tuple[str, ...] = (TRUSTED,)) -> nn.Module:
    """Rebuild the generator that `save_generator` wrote, in eval mode; maps (B, z_dim) to (B, C, H, W) in [-1, 1].

    Args:
        folder: contains generator.safetensors and generator.json.
        trusted: the packages, modules or classes that the config may name, such as "my_networks."; an untrusted
            config must not choose which code runs. The class must be defined there, not merely imported; nothing is
            imported for another name.

    Raises:
        UserError: no generator there; a class that is not trusted, not found, or no network; arguments that it
            does not take; or weights of other shapes, which is checked before memory is allocated for them.
    """
    path = folder / GENERATOR_CONFIG
    target, arguments = _described(path)
    if not is_trusted(target, trusted):
        raise UserError(
            f"{path} names the class {target}; trusted are {', '.join(trusted)}*. If you trust its code: "
            f"trusted=[{target.partition('.')[0]}.] (evaluate.py, sample.py)"
        )
    kind = _network_class(path, target, trusted)
    _check_arguments(path, target, arguments)
    _check_shapes(folder, kind, arguments, own=is_trusted(target, (TRUSTED,)))
    network = _built(path, kind, arguments)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise unfit(folder, reason(error)) from error
    return network.eval().requires_grad_(False)


def _described(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the class name in the config and the class's arguments, plain values."""
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise UserError(f"{path} is no generator's config: it has {path.stat().st_size} bytes")
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"no exported generator in {path.parent}: it holds no {GENERATOR_CONFIG}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: it must hold an object, {{...}}, not a {type(config).__name__}")
    target = config.pop("_target_", None)
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")) or "." not in target:
        raise UserError(f"{path} is damaged: its _target_ must be the class's dotted name, not {json.dumps(target)}")
    for name, value in config.items():
        if name.startswith("_") or "_target_" in json.dumps(value):
            raise UserError(f"{path}: {name} asks for more than {target} of plain values, which is never built")
    return target, config


def _network_class(path: Path, target: str, trusted: Sequence[str]) -> type[nn.Module]:
    """Import the trusted class called `target`."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{path} names the class {target}, which cannot be imported: {error}; "
            "PYTHONPATH=<its folder> in front of the command lets Python find it"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"{path} names {target}, which is no network: a class of torch.nn.Module's kind")
    home = f"{found.__module__}.{found.__qualname__}"
    if not is_trusted(home, trusted):
        raise UserError(f"{path} names {target}, which is {home}; trusted are {', '.join(trusted)}*")
    return found


def _check_arguments(path: Path, target: str, arguments: dict[str, Any]) -> None:
    """Refuse arguments that the constructor's signature does not take, or that are invalid for a generator."""
    length, shape = arguments.get("z_dim"), arguments.get("image_shape", [1, 1, 1])
    problems = []
    if not _is_count(length):
        problems.append(f"z_dim: must be a whole number of at least 1, not {_shown(length)}")
    if not (isinstance(shape, list) and len(shape) == 3 and all(map(_is_count, shape))):
        problems.append(f"image_shape: must be three whole numbers of at least 1, not {_shown(shape)}")
    if read := signature(target):  # None: made at run time; calling it shows whether they fit
        names = [parameter.name for parameter in read.parameters]
        problems += [
            f"{name}: no such argument{did_you_mean(name, names)} (it takes {', '.join(names) or 'none'})"
            for name in arguments
            if name not in names and not read.var_keyword
        ]
        for parameter in read.parameters:
            if parameter.name not in arguments:
                problems += [f"{parameter.name}: missing"] if parameter.required and parameter.name != "z_dim" else []
            elif parameter.kind and not parameter.kind.accepts(arguments[parameter.name]):
                problems.append(f"{parameter.name}: must be {parameter.kind}, not {_shown(arguments[parameter.name])}")
    if problems:
        raise UserError("\n  ".join([f"{path} does not fit {target}:", *dict.fromkeys(problems)]))


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _shown(value: object) -> str:
    return json.dumps(value)[:80]


def _check_shapes(folder: Path, kind: type[nn.Module], arguments: dict[str, Any], own: bool) -> None:
    """Refuse weights of another network by the shapes in the file's header, before memory is allocated.

    The constructor of a network that is not Gantry's `own` may not run on the meta device; it is then built in memory.
    """
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise unfit(folder, reason(error)) from error
    try:
        with torch.device("meta"), Uninitialised():
            made = _built(folder / GENERATOR_CONFIG, kind, arguments)
    except UserError:
        if own:
            raise
        return
    wanted = {name: tuple(value.shape) for name, value in made.state_dict().items()}
    differ = sorted(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))
    if differ:
        name = differ[0]
        raise unfit(
            folder,
            f"{len(differ)} of its tensors differ, {name} is {held.get(name, 'absent')}, "
            f"where {GENERATOR_CONFIG} makes {wanted.get(name, 'none')}",
        )


def _built(path: Path, kind: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    try:
        return kind(**arguments)
    except Exception as error:  # a constructor may raise anything for unexpected values
        raise UserError(f"{path}: {kind.__qualname__} cannot be made of these arguments: {reason(error)}") from error
