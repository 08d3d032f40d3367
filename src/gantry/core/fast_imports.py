"""What a run imports, and how: it was most of the time from typing a command to its first step.

Python's garbage collector looks again and again through all that an import makes, none of which is garbage. And
Lightning wants two base classes of torchmetrics, whose package imports all its metrics, and with them torchvision,
matplotlib and scipy's statistics and signal processing.
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
    """Import torch and Lightning inside: without the garbage collector, and without torchmetrics' metrics.

    What the first such import has made is kept from the collector for good, which would otherwise walk through a
    million objects now and then while training.
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
    """Have torchmetrics execute only when more of it is asked for than Lightning does.

    Nothing is taken away: a name that is not found executes the module it is missing from, as its import would have
    done. Does nothing where torchmetrics is imported already, or is not there.
    """
    if PACKAGE in sys.modules or (package := importlib.util.find_spec(PACKAGE)) is None:
        return

    def base(name: str) -> Any:
        importlib.import_module(UTILITIES)  # which imports the others in an order that closes no circle
        return getattr(importlib.import_module(f"{PACKAGE}.{HOMES[name]}"), name)

    def plot(*args: Any, **kwargs: Any) -> Any:
        return execute_plots().plot_single_or_multi_val(*args, **kwargs)

    _put_off(package, {name: partial(base, name) for name in HOMES} | {"_logger": lambda: logging.getLogger(PACKAGE)})
    folder = Path(package.submodule_search_locations[0], "utilities")  # type: ignore[index]
    if (plots := PathFinder.find_spec(PLOTS, [str(folder)])) is not None:
        types: dict[str, Callable[[], Any]] = {"_AX_TYPE": lambda: object, "_PLOT_OUT_TYPE": lambda: tuple}
        execute_plots = _put_off(plots, types | {"plot_single_or_multi_val": lambda: plot})


def _put_off(spec: ModuleSpec, early: Mapping[str, Callable[[], Any]]) -> Callable[[], ModuleType]:
    """Put a module into `sys.modules` that executes for the first name which `early` does not give.

    Returns:
        What executes it, where that has not been done, and gives it.
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
        if name.startswith("__"):  # what Python itself asks of any module
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")
        return getattr(execute(), name)

    vars(module)["__getattr__"] = find
    sys.modules[spec.name] = module
    return execute
