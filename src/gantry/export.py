"""The trained generator as files anyone can load: weights as safetensors, what rebuilds the network as JSON."""

import importlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from gantry.errors import UserError

WEIGHTS, CONFIG = "generator.safetensors", "generator.json"
TRUSTED = "gantry.networks."


def save_generator(folder: Path, network: nn.Module, config: dict[str, Any], step: int) -> None:
    """Write `network` as it is at a generator step and `config` (`_target_` and its arguments) to `folder`.

    Each file is whole or not there at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / f".{WEIGHTS}", metadata={"step": str(step)})
    (folder / f".{CONFIG}").write_text(json.dumps(config, indent=2) + "\n")
    for name in (WEIGHTS, CONFIG):
        (folder / f".{name}").replace(folder / name)


def load_generator(folder: Path, trusted: tuple[str, ...] = (TRUSTED,)) -> nn.Module:
    """Rebuild the generator that `save_generator` wrote, in eval mode; maps (B, z_dim) to (B, C, H, W) in [-1, 1].

    Args:
        folder: holds generator.safetensors and generator.json.
        trusted: prefixes of the classes the config may name; a config is data from elsewhere and must not
            choose what code runs.

    Raises:
        UserError: no generator there, a class that is not trusted or not found, or weights that do not fit it.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        raise UserError(f"no exported generator in {folder}: it holds no {CONFIG}") from None
    except ValueError as error:
        raise UserError(f"{folder / CONFIG} is damaged: {error}") from error
    target = config.pop("_target_")
    if not target.startswith(trusted):
        raise UserError(
            f"{folder / CONFIG} names the class {target}; trusted are {', '.join(trusted)}*. If you trust its code: "
            f"trusted=[{target.partition('.')[0]}.] (evaluate.py)"
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{folder / CONFIG} names the class {target}, which cannot be imported: {error}; "
            "PYTHONPATH=<its folder> in front of the command lets Python find it"
        ) from error
    network: nn.Module = found(**config)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS} is missing, damaged or of another network: {error}") from error
    return network.eval().requires_grad_(False)


def exported_step(folder: Path) -> int | None:
    """The generator step of what `save_generator` wrote; None where an older version did, which left it out."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        step = (file.metadata() or {}).get("step")
    return None if step is None else int(step)
