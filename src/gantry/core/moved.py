"""Maps old module names to new ones, since old configs, exported generators and users' code use the old names."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

PREFIXES = {
    "gantry.losses": "gantry.models.losses",
    "gantry.penalties": "gantry.models.penalties",
    "gantry.networks": "gantry.models.networks",
    "gantry.gan": "gantry.models.module",
    "gantry.noise": "gantry.models.latents",
    "gantry.randomness": "gantry.core.randomness",
    "gantry.errors": "gantry.core.errors",
    "gantry.data.folder": "gantry.data.image_folder",
    "gantry.data.samples": "gantry.data.sample_files",
    "gantry.metrics.extractors": "gantry.evaluation.extractors.networks",
    "gantry.metrics.classifier": "gantry.evaluation.extractors.classifier",
    "gantry.metrics": "gantry.evaluation.metrics",
    "gantry.distributed": "gantry.training.distributed",
    "gantry.export": "gantry.runs.generator_files",
    "gantry.tracking": "gantry.runs.tracking",
}


def new_name(dotted: str) -> str:
    """Return the current name of an old dotted name, such as `gantry.losses.hinge`; any other name unchanged."""
    for old, new in PREFIXES.items():
        if dotted == old or dotted.startswith(f"{old}."):
            return new + dotted[len(old) :]
    return dotted


def renamed(text: str) -> str:
    """`text`, such as a list of nodes as JSON, with each old name in it as it is today."""
    return re.sub(r"\bgantry(?:\.\w+)+", lambda match: new_name(match[0]), text)


class OldNames(MetaPathFinder):
    """Resolves imports of old names, such as `gantry.losses`, to the moved module: one object under both names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("gantry.") or (new := new_name(fullname)) == fullname:
            return None
        present = importlib.util.find_spec(new)
        return present and ModuleSpec(fullname, _Present(present), origin=present.origin)


class _Present(Loader):
    """Loads the module of a spec, unchanged."""

    def __init__(self, spec: ModuleSpec) -> None:
        self.spec = spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(self.spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system had set the old name's spec

    def get_code(self, name: str) -> CodeType | None:
        """Return the module's code, which `python -m` needs."""
        return self.spec.loader.get_code(self.spec.name)  # type: ignore[union-attr]


def accept_old_names() -> None:
    """Install `OldNames` once, before Python's own finders, which would load a moved package's modules twice."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())
