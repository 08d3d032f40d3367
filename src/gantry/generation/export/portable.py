"""A generator in a folder that works where only torch is installed: weights, source, and a file that loads them."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, find_spec
from pathlib import Path
from unittest.mock import patch

import torch

from gantry.core.config.definitions import OWN, Module
from gantry.core.errors import UserError
from gantry.core.safe_load import reason
from gantry.generation.export import standalone
from gantry.runs.generator_files import GENERATOR_CONFIG, TRUSTED, WEIGHTS, load_generator

LOADER, SOURCES, LICENCE = "generator.py", "network", "LICENSE.gantry"
PRESENT = {*sys.stdlib_module_names, "torch"}  # where a portable generator is loaded
CHECKED = 2  # images compared


def write_portable(source: Path, folder: Path, trusted: Sequence[str] = (TRUSTED,)) -> tuple[str, ...]:
    """Write a generator so that a process with nothing but torch can load it, and check that it then does the same.

    `folder` gets copies of generator.safetensors and generator.json; generator.py, whose `load()` returns the network;
    and in the folder network copies of the modules that define its class, of the trusted packages and of gantry, with
    their imports of each other made relative, so that they neither need nor touch an installed package.

    Args:
        source: an exported generator's folder, see `gantry.runs.generator_files`.
        folder: made where missing; not `source`. What it holds of these names is replaced.
        trusted: see `load_generator`.

    Returns:
        The packages besides torch that the copied modules import: none of our own networks, perhaps some of a user's.

    Raises:
        UserError: there is no generator that can be loaded (see `load_generator`), its class has no source that can
            be copied, or the copy does not make the same images.
    """
    network = load_generator(source, tuple(trusted))
    config = json.loads((source / GENERATOR_CONFIG).read_bytes())
    home = config["_target_"].rpartition(".")[0]
    packages = {OWN, *(name.partition(".")[0] for name in trusted)} - PRESENT
    modules, others = _gathered(home, packages)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / SOURCES, ignore_errors=True)
    for name in (WEIGHTS, GENERATOR_CONFIG):
        shutil.copyfile(source / name, folder / name)
    shutil.copyfile(standalone.__file__, folder / LOADER)
    _write_sources(modules, folder / SOURCES)
    _check(network, config["z_dim"], folder)
    return tuple(sorted(others))


def _gathered(home: str, packages: set[str]) -> tuple[dict[str, Module], set[str]]:
    """The modules of `packages` that `home` needs, by their dotted names, and the packages it needs besides."""
    modules: dict[str, Module] = {}
    others: set[str] = set()
    seen: set[str] = set()
    waiting = [home]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if (top := name.partition(".")[0]) not in packages:
            others |= {top} - PRESENT
            continue
        waiting += [parent for parent in [name.rpartition(".")[0]] if parent]
        spec = _spec(name)
        if spec is None:  # of `from module import name`, a name that is no module
            continue
        if spec.origin is None or not spec.has_location:  # a folder without __init__.py
            continue
        if not spec.origin.endswith(".py"):
            raise UserError(f"{home} needs {name}, which has no Python source to copy: {spec.origin}")
        modules[name] = module = Module(name, Path(spec.origin))
        waiting += _imported(module, packages)
    if home not in modules:
        raise UserError(f"{home} has no Python source to copy")
    return modules, others


def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def _imported(module: Module, packages: set[str]) -> Iterator[str]:
    """What its import statements name: modules, and names in them that may be modules."""
    for statement in _import_statements(_tree(module)):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        else:
            origin = module.imported_from(statement)
            yield origin
            if origin.partition(".")[0] in packages:
                yield from (f"{origin}.{alias.name}" for alias in statement.names)


def _tree(module: Module) -> ast.Module:
    return ast.parse(module.file.read_bytes())


def _import_statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Those that run, in functions too; not those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from (found for other in child.orelse for found in _import_statements(ast.Module([other], [])))
        else:
            yield from _import_statements(child)


def _write_sources(modules: dict[str, Module], folder: Path) -> None:
    folder.mkdir()
    (folder / "__init__.py").write_text(f'"""The source of the network\'s class, as {LOADER} finds it."""\n')
    for name, module in modules.items():
        path = folder.joinpath(*name.split(".")) / "__init__.py"
        if not module.is_package:
            path = path.parent.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        ours = name.partition(".")[0] == OWN
        licence = "SPDX-License-Identifier: Apache-2.0." if ours else "Its licence is that of its package."
        # Two lines: a line that declares an encoding counts in the first two alone, and this file's is UTF-8.
        head = f"# A copy of {name}, made when the generator was exported,\n# with relative imports. {licence}\n"
        path.write_text(head + _relative(module, modules.keys()), encoding="utf-8")
    if any(name.partition(".")[0] == OWN for name in modules) and (text := _licence()):
        (folder / LICENCE).write_text(text)


def _licence() -> str | None:
    """The text of our own licence, which has to go with copies."""
    try:
        return metadata.distribution("gantry-gan").read_text("licenses/LICENSE")
    except metadata.PackageNotFoundError:  # run from a checkout
        return None


def _relative(module: Module, copied: Collection[str]) -> str:
    """The module's source, with its absolute imports of copied modules made relative; all else as it is."""
    lines = [line.encode() for line in decode_source(module.file.read_bytes()).splitlines(keepends=True)]
    depth = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    copied = {*copied, *(parent for name in copied for parent in _parents(name))}
    found = [node for node in ast.walk(ast.parse(b"".join(lines))) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in sorted(found, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        text = "; ".join(map(ast.unparse, _made_relative(node, depth, copied)))
        if text == ast.unparse(node):
            continue
        assert node.end_lineno is not None
        head = lines[node.lineno - 1][: node.col_offset]
        tail = lines[node.end_lineno - 1][node.end_col_offset :]
        lines[node.lineno - 1 : node.end_lineno] = [head + text.encode() + tail]
    return b"".join(lines).decode()


def _made_relative(node: ast.Import | ast.ImportFrom, package: list[str], copied: Collection[str]) -> list[ast.stmt]:
    """What does the same as an import in a module of `package`, where the modules `copied` have another root."""
    if isinstance(node, ast.ImportFrom):
        if node.level or node.module is None or node.module not in copied:
            return [node]
        return [_from(package, node.module, node.names)]
    statements: list[ast.stmt] = []
    for alias in node.names:
        parent, _, name = alias.name.rpartition(".")
        if alias.name not in copied:
            statements.append(ast.Import([alias]))
        elif alias.asname or not parent:
            statements.append(_from(package, parent, [ast.alias(name, alias.asname)]))
        else:  # `import mine.layers` imports mine.layers and binds mine
            hidden = f"_{alias.name.replace('.', '_')}"
            statements.append(_from(package, parent, [ast.alias(name, hidden)]))
            statements.append(_from(package, "", [ast.alias(alias.name.partition(".")[0])]))
    return statements


def _from(package: list[str], origin: str, names: list[ast.alias]) -> ast.ImportFrom:
    """`from origin import names`, relative to `package`; an empty origin is the root of both."""
    parts = origin.split(".") if origin else []
    shared = 0
    while shared < min(len(parts), len(package)) and parts[shared] == package[shared]:
        shared += 1
    return ast.ImportFrom(".".join(parts[shared:]) or None, names, level=len(package) - shared + 1)


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


def _check(network: torch.nn.Module, z_dim: int, folder: Path) -> None:
    """Refuse a copy that does not make the very same images."""
    z = torch.randn(CHECKED, z_dim, generator=torch.Generator().manual_seed(0))
    try:
        with patch.object(sys, "dont_write_bytecode", True), torch.inference_mode():
            images = standalone.load(folder)(z)
            same = torch.equal(images, network(z))
    except Exception as error:  # whatever its source makes of being moved
        raise UserError(f"the copied source of the network does not work by itself: {reason(error)}") from error
    if not same:
        raise UserError("the copied source of the network does not make the same images as the network")
