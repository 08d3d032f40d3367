"""Reads trained weights as data, matches them with a new run's networks and loads them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from gantry.core.errors import UserError
from gantry.core.files import read_json
from gantry.core.safe_load import load_plain, reason
from gantry.core.text import typed_command
from gantry.models.matching import Match, match
from gantry.models.module import GAN
from gantry.runs.folder import EXPORTED, INIT_FILE
from gantry.runs.generator_metadata import WEIGHTS, exported_step
from gantry.training.init_from.origin import GENERATOR_ALONE, NETWORKS, OPTION, Origin
from gantry.training.resume import Start

State = dict[str, Tensor]
# The averaged generator is what is measured, shown and exported; a checkpoint holds the one without averaging too.
KEPT_AS = {"generator": "averaged.module.", "discriminator": "discriminator."}
MOST = 12  # layers named on the terminal; the record names all


@dataclass(frozen=True)
class Initial:
    """The trained weights with which a run begins.

    Attributes:
        tensors: by network, the values by their names in the run's own network.
        record: where they come from and which layers take them, plain values; see `docs/reference/files-of-a-run.md`.
    """

    tensors: dict[str, State]
    record: dict[str, Any]


def read_initial(origin: Origin, wanted: str, gan: GAN) -> Initial:
    """Read trained weights and match them with the networks of `gan`, which stay as they are.

    Args:
        origin: where they are.
        wanted: the value of `init_networks`.

    Raises:
        UserError: the file cannot be read or holds something else, a network takes no layer of it, or the weights are
            not finite.
    """
    states, step, digest = (_read_checkpoint if origin.is_checkpoint else _read_export)(origin)
    record: dict[str, Any] = {
        "file": str(origin.path),
        "run_id": origin.run_id,
        "model": origin.model,
        "step": step,
        "sha256": digest,
        "networks": wanted,
    }
    tensors: dict[str, State] = {}
    for name in origin.networks(wanted):
        network: nn.Module = getattr(gan, name)
        mine, trained = network.state_dict(), states[name]
        found = match(mine, trained)
        _check(origin, name, found, mine, trained)
        tensors[name] = {own: trained[other] for own, other in found.tensors.items()}
        record[name] = {
            "loaded": found.layers,
            "fresh": list(found.fresh),
            "left_out": list(found.unused),
            "values": sum(value.numel() for value in tensors[name].values()),
            "of": sum(value.numel() for value in mine.values()),
        }
    return Initial(tensors, record)


def check_same_weights(folder: Path, start: Start, initial: Initial) -> None:
    """Check that a run that was stopped before its first checkpoint begins again with the weights it began with.

    Raises:
        UserError: there are other weights now.
    """
    before = (read_json(folder / INIT_FILE) or {}).get("sha256") if start.goes_on else None
    if before not in (None, initial.record["sha256"]):
        raise UserError(
            f"{folder} holds a run that began with other weights than {OPTION} names now (their sha256 was {before}, "
            f"is {initial.record['sha256']}); {typed_command('train')} without resume= begins the run "
            "anew in another folder"
        )


def load_initial(gan: GAN, initial: Initial) -> None:
    """Give the networks of `gan` the weights; the average begins as a copy of the generator."""
    for name, tensors in initial.tensors.items():
        network: nn.Module = getattr(gan, name)
        network.load_state_dict(network.state_dict() | tensors)
    gan.averaged.module.load_state_dict(gan.generator.state_dict())


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Say for the terminal what a run begins with, and which layers begin fresh."""
    step = "" if record["step"] is None else f", step {record['step']}"
    yield f"begins with trained weights, at step 0: {record['model'] or record['file']}{step}"
    for name in NETWORKS:
        said = record.get(name)
        if said is None:
            why = "is left out" if record["networks"] == GENERATOR_ALONE else "is not in it"
            yield f"  {name}: {why}, begins fresh"
            continue
        loaded, fresh = said["loaded"], said["fresh"]
        averaged = ", averaged" if name == "generator" else ""
        share = (
            f"{len(loaded)} of {len(loaded) + len(fresh)} layers, {100 * said['values'] // said['of']}% of the values"
        )
        yield f"  {name}{averaged}: " + (f"{share}; fresh: {_named(fresh)}" if fresh else f"all {len(loaded)} layers")
        if moved := [f"{own} of {other}" for own, other in loaded.items() if own != other]:
            yield f"    counted otherwise there: {_named(moved)}"
        if said["left_out"]:
            yield f"    not taken from there: {_named(said['left_out'])}"


def tags_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a run that begins with trained weights."""
    parts = {name: record.get(name) for name in NETWORKS}
    loaded = [
        f"{name} {len(part['loaded'])} of {len(part['loaded']) + len(part['fresh'])} layers" if part else f"{name} none"
        for name, part in parts.items()
    ]
    known = {key: record[key] for key in ("run_id", "model", "step", "sha256") if record[key] is not None}
    named = {"init.file": record["file"], "init.loaded": ", ".join(loaded)}
    return named | {f"init.{key}": str(value) for key, value in known.items()}


def write_record(folder: Path, initial: Initial) -> Path:
    """Write the record to the run's folder, and return its file."""
    path = folder / INIT_FILE
    path.write_text(json.dumps(initial.record, indent=2) + "\n")
    return path


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def _read_checkpoint(origin: Origin) -> tuple[dict[str, State], int | None, str]:
    """Return the networks' weights, the step and the sha256 of a checkpoint."""
    what = f"{OPTION}={origin.title}: the checkpoint"
    content = _content(origin.path)
    loaded = load_plain(io.BytesIO(content), what)
    state = loaded.get("state_dict") if isinstance(loaded, dict) else None
    states = {name: _below(state, prefix) for name, prefix in KEPT_AS.items()}
    if lacking := [prefix for name, prefix in KEPT_AS.items() if not states[name]]:
        raise UserError(f"{what} is not Gantry's: its state_dict holds no {' and no '.join(lacking)}*")
    step = loaded.get("global_step")
    return states, step if type(step) is int else None, hashlib.sha256(content).hexdigest()


def _below(state: object, prefix: str) -> State:
    """Return the tensors whose names begin with `prefix`, without it; a file may hold anything."""
    held = state.items() if isinstance(state, Mapping) else ()
    return {
        key.removeprefix(prefix): value
        for key, value in held
        if isinstance(key, str) and key.startswith(prefix) and isinstance(value, Tensor)
    }


def _read_export(origin: Origin) -> tuple[dict[str, State], int | None, str]:
    """Return the weights, the step and the digest of an exported generator, as evaluations and the registry have it."""
    config, content = _content(origin.path / EXPORTED), _content(origin.path / WEIGHTS)
    try:
        state = load_safetensors(content)
    except SafetensorError as error:
        raise UserError(f"{OPTION}={origin.title}: {WEIGHTS} is damaged: {reason(error)}") from error
    return {"generator": state}, exported_step(origin.path), hashlib.sha256(config + content).hexdigest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{OPTION}={path}: cannot be read: {error.strerror}") from error


def _check(origin: Origin, name: str, found: Match, mine: State, trained: State) -> None:
    """Refuse weights of which a network takes none, or not all where its class is not known, or that are not finite."""
    unknown = name not in origin.classes
    if not found.layers or (unknown and (found.fresh or found.unused)):
        differ = (key for key in mine if key not in trained or mine[key].shape != trained[key].shape)
        first = next(differ, next(iter(mine)))
        there = tuple(trained[first].shape) if first in trained else "absent"
        why = (
            "nothing beside it says which network it is, and not all of it fits"
            if unknown and found.layers
            else f"no layer of its {name} fits this run's"
        )
        without = f"; init_networks={GENERATOR_ALONE} leaves it out" if name != "generator" else ""
        raise UserError(
            f"{OPTION}={origin.title}: {why}: {name}.{first} is {tuple(mine[first].shape)} here, {there} there "
            f"(width, z_dim, norm and the images' channels and size determine the shapes){without}"
        )
    values = (trained[other] for other in found.tensors.values())
    if not all(value.isfinite().all() for value in values):
        raise UserError(f"{OPTION}={origin.title}: the weights of its {name} are not finite: its training has diverged")
