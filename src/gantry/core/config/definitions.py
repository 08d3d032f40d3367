"""Finds the definition of a dotted name by reading source files; nothing is imported.

Imports, re-exports (`from x import Y as Z`, `from x import *`) and aliases (`A = B`) are followed.
"""

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gantry.core.errors import UserError
from gantry.core.moved import new_name
from gantry.core.text import did_you_mean

OWN = __name__.partition(".")[0]


@dataclass(frozen=True)
class Module:
    """A module of Python source; `name` is dotted."""

    name: str
    file: Path

    @property
    def is_package(self) -> bool:
        """True for the `__init__.py` of a package."""
        return self.file.name == "__init__.py"

    @property
    def body(self) -> list[ast.stmt]:
        """Its top-level statements, including those under `if`, `try` and `with`."""
        return _parse(self.file)

    def submodules(self) -> list[str]:
        """Return the names of the modules and packages directly in it."""
        if not self.is_package:
            return []
        folders = self.file.parent.glob("*/__init__.py")
        return [file.stem for file in self.file.parent.glob("*.py")] + [file.parent.name for file in folders]

    def imported_from(self, statement: ast.ImportFrom) -> str:
        """Return the dotted name of the module that an import statement here imports from."""
        if not statement.level:
            return statement.module or ""
        package = self.name.split(".") if self.is_package else self.name.split(".")[:-1]
        package = package[: len(package) - statement.level + 1]
        return ".".join([*package, statement.module] if statement.module else package)


@dataclass(frozen=True)
class Definition:
    """The statement that defines or binds a name, and its module."""

    module: Module
    statement: ast.stmt


@cache
def find(dotted: str) -> Definition | None:
    """Find the definition at `dotted`, such as "package.module.name".

    Returns:
        None where it is not in Python source (an extension module, say), or where a name of another package
        is not found and may be defined at run time.

    Raises:
        UserError: there is no such package; `dotted` is a module; or no such name is in gantry, or in a
            module of another package that lists its names in `__all__`.
    """
    dotted = new_name(dotted)
    top = dotted.partition(".")[0]
    if top == "__main__":
        return None
    if not top.isidentifier() or importlib.util.find_spec(top) is None:
        raise UserError(f"there is no package '{top}'; is it installed?")
    located = _locate(dotted)
    if located is None:
        return None
    module, names = located
    if not names:
        raise UserError(f"{dotted} is a module; name something in it: {', '.join(_public(module))}")
    found = _in_module(module, names[0])
    if found is None:
        _refuse_unknown(module, names[0])
    for name in names[1:]:
        found = _in_class(found, name) if found else None
    return found


def resolve(module: Module, expression: ast.expr, seen: frozenset[tuple[Path, str]] = frozenset()) -> Definition | None:
    """Find the definition that an expression in `module`, such as `Base`, `nn.Module` or `Generic[T]`, refers to."""
    if isinstance(expression, ast.Subscript):
        expression = expression.value
    first, _, rest = ast.unparse(expression).partition(".")
    if not rest:
        return _in_module(module, first, seen)
    for statement in module.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                if isinstance(statement, ast.ImportFrom) and (alias.asname or alias.name) == first:
                    return _follow(f"{module.imported_from(statement)}.{alias.name}.{rest}", seen)
                if isinstance(statement, ast.Import) and alias.asname == first:
                    return _follow(f"{alias.name}.{rest}", seen)
                if isinstance(statement, ast.Import) and alias.name.partition(".")[0] == first:
                    return _follow(f"{first}.{rest}", seen)
    return None


def is_overload(function: ast.FunctionDef) -> bool:
    """Return True for a typed signature (`typing.overload`) that is not the function itself."""
    return any(ast.unparse(decorator).endswith("overload") for decorator in function.decorator_list)


@cache
def _parse(file: Path) -> list[ast.stmt]:
    return list(_flat(ast.parse(file.read_bytes()).body))


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for branch in ("body", "orelse", "finalbody"):
                yield from _flat(getattr(statement, branch, []))
            for handler in getattr(statement, "handlers", []):
                yield from _flat(handler.body)


@cache
def _locate(dotted: str) -> tuple[Module, tuple[str, ...]] | None:
    """Return the longest prefix of `dotted` that is a module of Python source, and the remaining names."""
    top, *rest = dotted.split(".")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    # Some modules of the standard library (abc) are frozen into the interpreter; their source is beside it.
    source = spec and (getattr(spec.loader_state, "filename", None) or spec.origin)
    if not source or not source.endswith(".py"):
        return None
    module = Module(top, Path(source))
    for index, part in enumerate(rest):
        folder = module.file.parent
        files = (folder / part / "__init__.py", folder / f"{part}.py") if module.is_package else ()
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            return module, tuple(rest[index:])
        module = Module(f"{module.name}.{part}", file)
    return module, ()


def _in_module(module: Module, name: str, seen: frozenset[tuple[Path, str]] = frozenset()) -> Definition | None:
    """Find the definition of `name` in `module`, or the statement that binds it where that cannot be followed."""
    if (module.file, name) in seen:
        return None
    seen |= {(module.file, name)}
    stars = []
    for statement in reversed(module.body):
        here = Definition(module, statement)
        match statement:
            case ast.FunctionDef() if statement.name == name and not is_overload(statement):
                return here
            case ast.ClassDef() if statement.name == name:
                return here
            case ast.ImportFrom(names=aliases):
                for alias in aliases:
                    if (alias.asname or alias.name) == name:
                        return _follow(f"{module.imported_from(statement)}.{alias.name}", seen) or here
                    if alias.name == "*":
                        stars.append(module.imported_from(statement))
            case ast.Assign(targets=[ast.Name(id=bound)]) | ast.AnnAssign(target=ast.Name(id=bound)):
                if bound == name:
                    alias_of = isinstance(statement.value, ast.Name | ast.Attribute) and statement.value
                    return (resolve(module, alias_of, seen) if alias_of else None) or here
    followed = (_follow(f"{star}.{name}", seen) for star in stars)
    return next((found for found in followed if found), None)


def _follow(dotted: str, seen: frozenset[tuple[Path, str]]) -> Definition | None:
    located = _locate(dotted)
    if located is None or len(located[1]) != 1:
        return None
    return _in_module(located[0], located[1][0], seen)


def _in_class(found: Definition, name: str) -> Definition | None:
    if isinstance(found.statement, ast.ClassDef):
        for statement in reversed(found.statement.body):
            if getattr(statement, "name", None) == name:
                return Definition(found.module, statement)
    return None


def _exported(module: Module) -> list[str] | None:
    """Return `__all__` where it is one literal list."""
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(names) | ast.Tuple(names)):
                return [str(name.value) for name in names if isinstance(name, ast.Constant)]
    return None


def _public(module: Module) -> list[str]:
    """Return the valid names for an error message: callables, and the modules of a package."""
    names = _exported(module)
    if names is None:
        names = module.submodules()
        for statement in module.body:
            match statement:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    names.append(name)
                case ast.ImportFrom(names=aliases) if module.is_package:
                    names += [alias.asname or alias.name for alias in aliases]
    return sorted({name for name in names if name[0] not in "_*"})


def _refuse_unknown(module: Module, name: str) -> None:
    exported = _exported(module)
    dynamic = exported is None or any(getattr(s, "name", None) == "__getattr__" for s in module.body)
    if module.name.partition(".")[0] != OWN and (dynamic or name in (exported or ())):
        return
    names = _public(module)
    raise UserError(f"there is no '{name}' in {module.name}{did_you_mean(name, names)} (it has: {', '.join(names)})")
