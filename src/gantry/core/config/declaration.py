"""Declares options as fields of dataclasses: `option`, `text` and `path` make one, `group` several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, reduce
from inspect import getdoc
from operator import or_
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from gantry.core.config.signatures import Kind


class Target:
    """A group with a `_target_`: it also has the parameters of the function or class that the `_target_` names."""


@dataclass(frozen=True)
class Option:
    """One declared option, or a group of options.

    Attributes:
        key: the dotted key.
        type: its annotation; for a group the dataclass of its options.
        default: a plain value; text may be an interpolation.
        sentence: its description, for `--help` and the reference page.
        least: the smallest number; None: 1 for whole numbers, 0 for others.
        above: a number that it must exceed.
        most: the largest number; None: 2**31 - 1 for whole numbers.
        negative: numbers in this group may be negative, since they are no sizes.
        optional: the option may be absent.
        may_be_empty: the group may be {}, which disables what it configures.
        resumable: a resumed run may change the value.
        typed: the value is taken from the command line as it was typed: "text"; "texts" may be a list in brackets too;
            "path" may be several paths, addresses or names in a sweep, each in Hydra's quotes or not.
        place: the option is a path or address, which may differ between the machines of one run.
        compared: the option affects the trained model, so that a comparison names it where runs differ.
        built: the value, or members of the list, may be made by a `_target_` instead.
        modes: the modes of `sample.py` that read it, "" for drawing images; empty: all.
        reserved: parameters of the `_target_` that its caller passes, or that would change the meaning of a step;
            where it is a mapping, with the reason and what to set instead.
    """

    key: str
    type: Any
    default: Any
    sentence: str
    least: float | None = None
    above: float | None = None
    most: int | None = None
    negative: bool = False
    optional: bool = False
    may_be_empty: bool = False
    resumable: bool = False
    typed: Literal["", "path", "text", "texts"] = ""
    place: bool = False
    compared: bool = True
    built: bool = False
    modes: tuple[str, ...] = ()
    reserved: tuple[str, ...] | Mapping[str, str] = ()

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    @property
    def kind(self) -> Kind | None:
        """The valid values; None: any, or those that a signature allows."""
        return kind_of(self.type)

    @property
    def items(self) -> Kind | None:
        """The valid values of a list's members; None where the option is no list."""
        return kind_of(get_args(self.type)[0]) if get_origin(self.type) is list else None

    @property
    def values(self) -> str:
        """A description of the valid values; "" where any value is valid."""
        kind = self.items or self.kind
        if kind is None:
            return ""
        words = [f"a list, each {kind}" if self.items else str(kind)]
        if kind.types & {int, float}:
            words += [f"above {self.above}" if self.above is not None else f"at least {self.smallest(kind)}"]
        return ", ".join(words)

    def smallest(self, kind: Kind | None) -> float:
        """Return the smallest number allowed where `kind` allows numbers; a count is at least 1."""
        return self.least if self.least is not None else int(counts(kind))

    @property
    def is_group(self) -> bool:
        """True for a group of options."""
        return is_dataclass(self.type)

    @property
    def has_target(self) -> bool:
        """True for a group with a `_target_`."""
        return isinstance(self.type, type) and issubclass(self.type, Target)


def option(default: Any, sentence: str, **more: Any) -> Any:
    """Return the field of an option; `more` are attributes of `Option`."""
    return field(default=default, metadata={"sentence": sentence, **more})


def text(default: Any, sentence: str, **more: Any) -> Any:
    """Return the field of an option of one command, whose value is taken as it was typed."""
    return option(default, sentence, typed="text", **more)


def path(default: Any, sentence: str, **more: Any) -> Any:
    """Return the field of an option that is a path, an address or a name, which a sweep may vary."""
    return option(default, sentence, typed="path", **more)


def group(sentence: str = "", **more: Any) -> Any:
    """Return the field of a group, annotated with its dataclass, whose docstring is the default for `sentence`."""
    return option(None, sentence, **more)


@cache
def declared(command: type) -> dict[str, Option]:
    """Return the options of a command's dataclass by dotted key, each group before its members."""
    return {one.key: one for one in _below(command, "")}


def _below(options: Any, prefix: str) -> Iterator[Option]:
    for one in fields(options):
        default = list(one.default) if isinstance(one.default, tuple) else one.default
        summary = str(getdoc(one.type)).partition("\n")[0].removesuffix(".")
        sentence = one.metadata["sentence"] or summary[0].lower() + summary[1:]
        name = one.name.removesuffix("_")  # a keyword of Python's, such as class, is no name of a field
        made = Option(f"{prefix}{name}", one.type, default, **{**one.metadata, "sentence": sentence})
        yield made
        if made.is_group:
            yield from _below(one.type, f"{made.key}.")


def counts(kind: Kind | None) -> bool:
    """Return True if `kind` allows whole numbers only."""
    return kind is not None and int in kind.types and float not in kind.types


def within(key: str, groups: Sequence[str]) -> bool:
    """Return True if the dotted `key` is one of `groups` or below one."""
    return any(f"{key}.".startswith(f"{one}.") for one in groups)


def kind_of(annotation: Any) -> Kind | None:
    """Return the values that an annotation such as `int | None` allows; None where a `Kind` cannot express it."""
    if get_origin(annotation) is Literal:
        return Kind(choices=get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind_of(member) for member in get_args(annotation)]
        return None if None in kinds else reduce(or_, kinds)
    if annotation is NoneType:
        return Kind(optional=True)
    return Kind(types=frozenset({annotation})) if annotation in (int, float, bool, str) else None
