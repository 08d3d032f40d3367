"""The options that several commands share: where things are, the MLflow store, and which generator."""

# ruff: noqa: RUF009  (`option` and its like return `dataclasses.field`)
# No `from __future__ import annotations` here: `declared` reads the annotations as types, not as text.
from dataclasses import dataclass
from typing import Any, Literal

from gantry.core.cache_folder import DEFAULT
from gantry.core.config.declaration import option, path

Accelerator = Literal["auto", "cpu", "gpu", "mps"]


@dataclass
class Root:
    """Where things are."""

    root: str = path("${hydra:runtime.cwd}", "where mlruns is")


@dataclass
class Paths(Root):
    """Where things are."""

    cache: str = path(DEFAULT, "data sets, weights, features of real images; GANTRY_CACHE or ~/.cache/gantry")


@dataclass
class Store:
    """The MLflow store that holds the runs and the registered models."""

    uri: Any = path(
        "${oc.env:MLFLOW_TRACKING_URI,${paths.root}/mlruns}",
        "a folder (SQLite and artifacts), sqlite:///..., http://host:5000, postgresql://..., mysql://...",
    )
    experiment: str = path(
        "${oc.env:MLFLOW_EXPERIMENT_NAME,${oc.env:MLFLOW_EXPERIMENT_ID,gantry}}", "the runs' experiment in it"
    )


@dataclass
class Tracking(Store):
    """The MLflow store of the runs, and how a new one is tracked."""

    run_name: str = path(
        "${hydra:runtime.choices.model}-${hydra:runtime.choices.data}-${seed}",
        "the new run's name in MLflow; the default one goes on with what its sweep varies",
    )
    close_timeout: float = option(
        30, "seconds a run waits at its end for a store that is away; what is left stays in its folder"
    )


@dataclass
class Generator:
    """The options that evaluate.py and sample.py share."""

    run: Any = option(None, "a run's folder, id or name in MLflow, latest, best")
    generator: Literal["best", "last"] = option("best", "best: at the step with the best first metric; last")
    raw: bool = option(False, "true: the generator without averaging")
    trusted: list[str] = option(
        (), "modules besides gantry.models.networks that a generator may come from, such as [my_networks.]"
    )
