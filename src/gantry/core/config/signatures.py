"""Reads the parameters of a config's `_target_` from its source without importing it.

Refusing a config takes 1 s of processor time; `inspect.signature` would add the import of the target: 2.5 s for a
network or an optimizer of torch, 8 s for Lightning's Trainer. A precomputed table would be valid for one version of
these only, and not for a user's modules.
"""

import ast
from dataclasses import dataclass
from functools import cache, cached_property

from gantry.core.config.definitions import Definition, Module, find, is_overload, resolve

SIMPLE: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}
LISTS = ("Sequence", "list", "tuple")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list"}


@dataclass(frozen=True)
class Kind:
    """The values a parameter takes, for annotations as simple as `int | None` or `Literal["a"]`."""

    types: frozenset[type] = frozenset()
    choices: tuple[object, ...] = ()
    optional: bool = False

    def accepts(self, value: object) -> bool:
        """Return True if `value` is allowed. A float takes whole numbers too; a bool is no number."""
        if value is None:
            return self.optional
        if any(type(value) is type(choice) and value == choice for choice in self.choices):
            return True
        return type(value) in self.types or (type(value) is int and float in self.types)

    def __or__(self, other: "Kind") -> "Kind":
        return Kind(self.types | other.types, self.choices + other.choices, self.optional or other.optional)

    def __str__(self) -> str:
        named, types = [str(choice) for choice in self.choices], self.types
        if named and bool in types:
            named, types = [*named, "true", "false"], types - {bool}
        words = ["one of " + ", ".join(dict.fromkeys(named))] if named else []
        words += [word for simple, word in WORDS.items() if simple in types]
        return " or ".join(words + ["null"] * self.optional)


@dataclass(frozen=True)
class Parameter:
    """A parameter that can be given by name, as it stands in the source (`name: annotation = value`).

    `positional` says that it can be given by position too.
    """

    name: str
    module: Module
    annotation: ast.expr | None
    value: ast.expr | None
    positional: bool

    @property
    def required(self) -> bool:
        """True if it has no default."""
        return self.value is None

    @property
    def default(self) -> object:
        """Its default if that is a constant, or else None."""
        return _constant(self.value)

    @cached_property
    def kind(self) -> Kind | None:
        """The values it takes; None without an annotation, or with one that a `Kind` cannot express.

        Computed lazily, since following an alias in the annotation may read many files.
        """
        kind = _kind(self.module, self.annotation) if self.annotation else None
        # In older code `x: int = None` means `int | None`.
        none_by_default = isinstance(self.value, ast.Constant) and self.value.value is None
        return kind | Kind(optional=True) if kind and none_by_default else kind


@dataclass(frozen=True)
class Signature:
    """The parameters of a function or of a class's constructor (without `self`)."""

    parameters: tuple[Parameter, ...]
    var_positional: bool = False
    var_keyword: bool = False
    is_class: bool = False

    def get(self, name: str) -> Parameter | None:
        """Return the parameter called `name`, or None."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


@cache
def signature(dotted: str) -> Signature | None:
    """Read the signature of the function or class at `dotted`, as "package.module.name"; nothing is imported.

    A class without `__init__` has that of its nearest base; a dataclass has its fields.

    Returns:
        None where it cannot be read from Python source: extension modules, callables made at run time, names
        of other packages that may be defined at run time.

    Raises:
        UserError: there is no such package, module or name; the message names those there are.
    """
    found = find(dotted)
    return _read(found) if found else None


def _read(found: Definition) -> Signature | None:
    if isinstance(found.statement, ast.ClassDef):
        return _of_class(found.module, found.statement)
    if isinstance(found.statement, ast.FunctionDef):
        return _of_function(found.module, found.statement)
    return None


def _of_class(module: Module, definition: ast.ClassDef) -> Signature | None:
    methods = [s for s in definition.body if isinstance(s, ast.FunctionDef) and not is_overload(s)]
    for method in reversed(methods):
        if method.name == "__init__":
            return _of_function(module, method, is_class=True)
    if any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list):
        return _of_dataclass(module, definition)
    if any(method.name == "__new__" for method in methods):
        return None
    for base in definition.bases:
        inherited = _of_base(module, base)
        if inherited is None or inherited.parameters or inherited.var_keyword:
            return inherited
    return Signature((), is_class=True)


def _of_base(module: Module, base: ast.expr) -> Signature | None:
    found = resolve(module, base)
    return _read(found) if found else None


def _of_dataclass(module: Module, definition: ast.ClassDef) -> Signature | None:
    fields: dict[str, Parameter] = {}
    for base in reversed(definition.bases):
        inherited = _of_base(module, base)
        if inherited is None:
            return None
        fields |= {parameter.name: parameter for parameter in inherited.parameters}
    for statement in definition.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                options: dict[str | None, ast.expr] = {}
                if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
                    options = {keyword.arg: keyword.value for keyword in value.keywords}
                    value = options.get("default", options.get("default_factory"))
                made_inside = "init" in options and _constant(options["init"]) is False
                if not made_inside and "ClassVar" not in ast.unparse(annotation):
                    fields[name] = Parameter(name, module, annotation, value, positional=True)
    return Signature(tuple(fields.values()), is_class=True)


def _of_function(module: Module, function: ast.FunctionDef, is_class: bool = False) -> Signature:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    bound = is_class or any(ast.unparse(decorator) == "classmethod" for decorator in function.decorator_list)
    skipped = max(len(arguments.posonlyargs), int(bound))
    parameters = [
        Parameter(argument.arg, module, argument.annotation, default, positional=True)
        for argument, default in list(zip(positional, defaults, strict=True))[skipped:]
    ] + [
        Parameter(argument.arg, module, argument.annotation, default, positional=False)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return Signature(
        tuple(parameters),
        var_positional=arguments.vararg is not None,
        var_keyword=arguments.kwarg is not None,
        is_class=is_class,
    )


def _constant(expression: ast.expr | None) -> object:
    return expression.value if isinstance(expression, ast.Constant) else None


def _kind(module: Module, annotation: ast.expr) -> Kind | None:
    """Return the annotation as a `Kind`, or None where a `Kind` cannot express it; aliases are followed."""
    match annotation:
        case ast.Constant(value=None):
            return Kind(optional=True)
        case ast.Constant(value=str(text)):
            return _kind(module, ast.parse(text, mode="eval").body)
        case ast.Name(id=name) if name in SIMPLE:
            return Kind(types=frozenset({SIMPLE[name]}))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _union(module, [left, right])
        case ast.Subscript(value=generic, slice=inner):
            members = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            match ast.unparse(generic).rpartition(".")[2]:
                case name if name in LISTS:
                    return Kind(types=frozenset({list}))
                case "Literal":
                    values = [member.value for member in members if isinstance(member, ast.Constant)]
                    return Kind(choices=tuple(values)) if len(values) == len(members) else None
                case "Union":
                    return _union(module, members)
                case "Optional":
                    return _union(module, [*members, ast.Constant(None)])
        case ast.Name() | ast.Attribute():
            found = resolve(module, annotation)
            if found and isinstance(found.statement, ast.Assign | ast.AnnAssign) and found.statement.value:
                return _kind(found.module, found.statement.value)
    return None


def _union(module: Module, members: list[ast.expr]) -> Kind | None:
    union = Kind()
    for member in members:
        kind = _kind(module, member)
        if kind is None:
            return None
        union |= kind
    return union
