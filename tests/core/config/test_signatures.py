"""What a `_target_` accepts is read without importing it, and is what Python says it is."""

import inspect
import subprocess
import sys
import textwrap

import pytest

from gantry.core.config.signatures import signature
from gantry.core.errors import UserError


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """A package on the path, with a name of its own for each test: `write(file=source)` returns the name."""
    name = f"pkg_{abs(hash(request.node.name))}"
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def write(**files):
        for file, source in files.items():
            # Whatever is imported here shows.
            (folder / f"{file}.py").write_text(textwrap.dedent(source) + "\nraise RuntimeError('imported')\n")
        return name

    return write


def kind(dotted, name):
    return signature(dotted).get(name).kind


def names(dotted):
    return [parameter.name for parameter in signature(dotted).parameters]


@pytest.mark.parametrize(
    "dotted",
    [
        "torch.optim.Adam",
        "torch.optim.RMSprop",
        "torch.optim.SGD",
        "torch.nn.Conv2d",
        "torch.nn.ReLU",
        "pytorch_lightning.Trainer",
        "gantry.models.module.GAN",
        "gantry.models.penalties.GradientPenalty",
        "gantry.models.networks.dcgan.Discriminator",
        "gantry.models.losses.hinge",
    ],
)
def test_agrees_with_inspect(dotted):
    module, _, name = dotted.rpartition(".")
    imported = inspect.signature(getattr(__import__(module, fromlist=[name]), name))
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    expected = {n: p.default is inspect.Parameter.empty for n, p in imported.parameters.items() if p.kind in by_name}
    assert {p.name: p.required for p in signature(dotted).parameters} == expected


def test_imports_nothing():
    code = (
        "import sys; from gantry.core.config.signatures import signature; "
        "print([p.name for p in signature('torch.optim.Adam').parameters][:2], str(kind) "
        "if (kind := signature('gantry.models.networks.dcgan.Generator').get('norm').kind) else None, "
        "sorted({'torch', 'numpy', 'gantry.models.networks'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['params', 'lr'] one of batch, layer, instance, none []\n"


def test_kinds(package):
    name = package(
        __init__="",
        kinds="""
        from typing import Literal, Optional, Union
        import typing as t
        from .aliases import Norm as N, Either
        from . import aliases
        def f(a: int, b: float, c: bool, d: "str", e: int | None, f: Optional[float], g: N, h: aliases.Norm,
              i: Literal[1, 2] | None, j: Union[int, str], k: Either, l: object, m,
              n: list[int], o: int = None): ...
        """,
        aliases="""
        from typing import Literal
        Norm = Literal["batch", "none"]
        Either = Norm | int
        """,
    )
    accepted = {
        "a": [3, -1],
        "b": [3, 0.5],
        "c": [True],
        "d": ["x"],
        "e": [3, None],
        "f": [3, 0.5, None],
        "g": ["batch"],
        "h": ["none"],
        "i": [1, None],
        "j": [3, "x"],
        "k": [3, "batch"],
        "n": [[1]],
        "o": [3, None],
    }
    refused = {
        "a": [3.0, True, "3", None, [3]],
        "b": [True, "0.5", None],
        "c": [1, "true", None],
        "d": [3, None],
        "e": [0.5],
        "f": [True, "x"],
        "g": ["bach", None, 0],
        "h": ["instance"],
        "i": [3, "1", True],
        "j": [0.5, None],
        "k": ["layer", 0.5],
        "n": [1, "x", None],
        "o": [0.5],
    }
    for parameter in accepted:
        read = kind(f"{name}.kinds.f", parameter)
        assert [v for v in accepted[parameter] if not read.accepts(v)] == [], parameter
        assert [v for v in refused[parameter] if read.accepts(v)] == [], parameter
    assert kind(f"{name}.kinds.f", "l") is None
    assert kind(f"{name}.kinds.f", "m") is None


def test_follows_reexports_stars_aliases_and_bases(package):
    name = package(
        __init__="from .stars import *\nfrom .made import Made as Renamed\nAlias = Renamed\n",
        stars="def starred(x: int): ...",
        made="""
        from dataclasses import dataclass, field
        from typing import ClassVar
        from . import made as itself
        import abc
        class Base:
            def __init__(self, width: int = 4, *, bias: bool = True): ...
        class Made(Base):
            def forward(self, other): ...
        class Deeper(abc.ABC, itself.Made): ...
        class Loose(Base):
            def __init__(self, depth: int, **kwargs): ...
        @dataclass(frozen=True)
        class Fields:
            weight: float
            many: list[int] = field(default_factory=list)
            hidden: int = field(init=False, default=3)
            shared: ClassVar[int] = 1
        @dataclass
        class More(Fields):
            every: int = 1
        class Factory:
            @classmethod
            def make(cls, size: int): ...
        """,
    )
    assert names(f"{name}.starred") == ["x"]
    for way in ("Renamed", "Alias", "made.Made", "made.Deeper"):
        assert names(f"{name}.{way}") == ["width", "bias"], way
    assert signature(f"{name}.Renamed").get("width").default == 4
    assert not signature(f"{name}.Renamed").get("bias").positional
    assert names(f"{name}.made.Loose") == ["depth"]
    assert signature(f"{name}.made.Loose").var_keyword
    assert names(f"{name}.made.More") == ["weight", "many", "every"]
    assert [p.required for p in signature(f"{name}.made.More").parameters] == [True, False, False]
    assert names(f"{name}.made.Factory.make") == ["size"]


@pytest.mark.parametrize(
    ("dotted", "said"),
    [
        ("gantry.models.losses.hing", ["'hing'", "gantry.models.losses", "did you mean 'hinge'", "non_saturating"]),
        ("gantry.models.nets.dcgan.Generator", ["'nets'", "did you mean 'networks'", "penalties"]),
        ("gantry.models.networks.dcgan.Generater", ["did you mean 'Generator'", "Discriminator"]),
        ("gantry.models.losses", ["is a module", "hinge"]),
        ("torch.optim.RMSProp", ["did you mean 'RMSprop'", "Adam"]),
        ("no_such_package.Thing", ["'no_such_package'", "installed"]),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(dotted, said):
    with pytest.raises(UserError) as refused:
        signature(dotted)
    assert [part for part in said if part not in str(refused.value)] == []


@pytest.mark.parametrize("dotted", ["math.sqrt", "torch.tensor", "torch.no_such_name", "functools.partial"])
def test_what_cannot_be_read_is_left_unchecked(dotted):
    assert signature(dotted) is None


def test_a_name_bound_to_what_cannot_be_read_is_left_unchecked(package):
    name = package(__init__="from math import sqrt\nfrom gone import lost\nmade = sqrt(2)\n")
    assert [signature(f"{name}.{bound}") for bound in ("sqrt", "lost", "made", "absent")] == [None] * 4
