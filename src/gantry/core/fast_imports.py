"""Speeds up the import of torch and Lightning, which took most of the time from typing a command to its first step.

Python's garbage collector repeatedly scans all objects that an import makes, none of which is garbage. And Lightning
needs two base classes of torchmetrics, whose package imports all its metrics, and with them torchvision, matplotlib
and scipy's statistics and signal processing.
"""

import gc
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "torchmetrics"
UTILITIES, PLOTS = f"{PACKAGE}.utilities", f"{PACKAGE}.utilities.plot"
HOMES = {"Metric": "metric", "MetricCollection": "collections", "__version__": "__about__"}


@contextmanager
def lean_imports() -> Iterator[None]:
    """Import torch and Lightning in this context: without the garbage collector and without torchmetrics' metrics.

    The objects that the first such import made are exempt from collection from then on; the collector would otherwise
    scan a million objects now and then while training.
    """
    first, collects = "pytorch_lightning" not in sys.modules, gc.isenabled()
    gc.disable()
    if first:
        _put_off_torchmetrics()
    try:
        yield
    finally:
        if first:
            gc.freeze()
        if collects:
            gc.enable()


def _put_off_torchmetrics() -> None:
    """Make torchmetrics' import lazy: it executes only when a name is requested that Lightning does not use.

    No name is lost: the first missing name executes its module, as an import would have done. Does nothing where
    torchmetrics is imported already or is not installed.
    """
    if PACKAGE in sys.modules or (package := importlib.util.find_spec(PACKAGE)) is None:
        return

    def base(name: str) -> Any:
        importlib.import_module(UTILITIES)  # imports the other modules in an order without a circular import
        return getattr(importlib.import_module(f"{PACKAGE}.{HOMES[name]}"), name)

    def plot(*args: Any, **kwargs: Any) -> Any:
        return execute_plots().plot_single_or_multi_val(*args, **kwargs)

    _put_off(package, {name: partial(base, name) for name in HOMES} | {"_logger": lambda: logging.getLogger(PACKAGE)})
    folder = Path(package.submodule_search_locations[0], "utilities")  # type: ignore[index]
    if (plots := PathFinder.find_spec(PLOTS, [str(folder)])) is not None:
        types: dict[str, Callable[[], Any]] = {"_AX_TYPE": lambda: object, "_PLOT_OUT_TYPE": lambda: tuple}
        execute_plots = _put_off(plots, types | {"plot_single_or_multi_val": lambda: plot})


def _put_off(spec: ModuleSpec, early: Mapping[str, Callable[[], Any]]) -> Callable[[], ModuleType]:
    """Put a module into `sys.modules` that executes at the first request for a name that is not in `early`.

    Returns:
        A function that executes the module if that has not been done, and returns it.
    """
    assert spec.loader is not None
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def execute() -> ModuleType:
        if vars(module).pop("__getattr__", None) is not None:
            loader.exec_module(module)
        return module

    def find(name: str) -> Any:
        if name in early:
            return early[name]()
        if name.startswith("__"):  # Python itself requests these of any module
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")
        return getattr(execute(), name)

    vars(module)["__getattr__"] = find
    sys.modules[spec.name] = module
    return execute
