"""Writes a generator to a folder that loads where only torch is installed: weights, source and a loader."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import torch

from gantry.core.errors import UserError
from gantry.core.moved import new_name
from gantry.core.safe_load import reason
from gantry.generation.export import standalone
from gantry.models.labels import Classes
from gantry.runs.generator_files import TRUSTED, load_generator
from gantry.runs.generator_metadata import GENERATOR_CONFIG, WEIGHTS, exported_classes

OWN = __name__.partition(".")[0]
LOADER, SOURCES, LICENCE = "generator.py", "network", "LICENSE.gantry"
PRESENT = {*sys.stdlib_module_names, "torch"}  # packages available where a portable generator is loaded
CHECKED = 2  # number of images compared


def write_portable(source: Path, folder: Path, trusted: Sequence[str] = (TRUSTED,)) -> tuple[str, ...]:
    """Write a generator so that a process with only torch can load it, and check that its images are the same.

    `folder` gets copies of generator.safetensors and generator.json; generator.py, whose `load()` returns the network;
    and in the folder network copies of the modules that define its class, of the trusted packages and of gantry. Its
    `load()` makes them import each other, so that they neither need nor change an installed package.

    Args:
        source: an exported generator's folder, see `gantry.runs.generator_files`.
        folder: created if missing; not `source`. Files of these names are replaced.
        trusted: see `load_generator`.

    Returns:
        The packages besides torch that the copied modules import: none for Gantry's networks, maybe some for a user's.

    Raises:
        UserError: there is no generator that can be loaded (see `load_generator`), its class has no source that can
            be copied, or the copy generates other images.
    """
    network = load_generator(source, tuple(trusted))
    config = json.loads((source / GENERATOR_CONFIG).read_bytes())
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / SOURCES, ignore_errors=True)
    for name in (WEIGHTS, GENERATOR_CONFIG):
        shutil.copyfile(source / name, folder / name)
    shutil.copyfile(standalone.__file__, folder / LOADER)
    home = config["_target_"].rpartition(".")[0]
    others = copy_source(home, {OWN, *(name.partition(".")[0] for name in trusted)} - PRESENT, folder / SOURCES)
    _check(network, config["z_dim"], folder, exported_classes(source))
    return tuple(sorted(others - PRESENT))


def copy_source(home: str, packages: Collection[str], folder: Path) -> set[str]:
    """Copy the module `home`, and the modules of `packages` that it needs, unchanged to the new `folder`.

    `standalone.imported` imports them from there. Gantry's own `__init__.py` is not copied: it is of the whole package.

    Args:
        home: a dotted name; the copy of a moved module is stored under the old name.
        packages: names of top-level packages and modules.
        folder: created; must not exist.

    Returns:
        The other packages and modules that they import.

    Raises:
        UserError: a module has no Python source.
    """
    others: set[str] = set()
    seen: set[str] = {"", OWN}
    waiting = [home]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if (top := name.partition(".")[0]) not in packages:
            others.add(top)
            continue
        waiting.append(name.rpartition(".")[0])
        origin = _source(name)
        if origin is None:
            if name == home:
                raise UserError(f"{home} has no Python source to copy")
            continue
        if origin.suffix != ".py":
            raise UserError(f"{home} needs {name}, which has no Python source to copy: {origin}")
        path = folder.joinpath(*name.split(".")).with_suffix(".py")
        if origin.name == "__init__.py":
            path = path.with_suffix("") / origin.name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, path)
        waiting += _imported(name, origin)
    if (folder / OWN).exists() and (text := _licence()):
        (folder / LICENCE).write_text(text)
    return others


def _source(name: str) -> Path | None:
    """Return the file of a module; None for a name that is no module, and for a folder without `__init__.py`."""
    try:
        spec = find_spec(new_name(name))
    except (ImportError, ValueError, AttributeError):  # in `from module import name`, a name that is no module
        return None
    return Path(spec.origin) if spec and spec.origin and spec.has_location else None


def _imported(name: str, file: Path) -> Iterator[str]:
    """Yield the names in a module's import statements, in functions too: modules, and names that may be modules.

    Imports under `TYPE_CHECKING` are left out.
    """
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    waiting: list[ast.AST] = [ast.parse(file.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        waiting += node.orelse if typing else ast.iter_child_nodes(node)  # type: ignore[attr-defined]


def _licence() -> str | None:
    """Return the text of Gantry's licence, which has to accompany copies."""
    try:
        return metadata.distribution("gantry-gan").read_text("licenses/LICENSE")
    except metadata.PackageNotFoundError:  # run from a checkout
        return None


def _check(network: torch.nn.Module, z_dim: int, folder: Path, classes: Classes | None) -> None:
    """Refuse a copy that does not generate exactly the same images."""
    inputs = [torch.randn(CHECKED, z_dim, generator=torch.Generator().manual_seed(0))]
    inputs += [] if classes is None else [torch.arange(CHECKED) % len(classes)]
    try:
        with patch.object(sys, "dont_write_bytecode", True), torch.inference_mode():
            images = standalone.load(folder)(*inputs)
            same = torch.equal(images, network(*inputs))
    except Exception as error:  # moved source may raise anything
        raise UserError(f"the copied source of the network does not work by itself: {reason(error)}") from error
    if not same:
        raise UserError("the copied source of the network does not make the same images as the network")
