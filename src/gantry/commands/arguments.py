"""Adds the arguments that `resume=` and `sweep.resume=` imply, and settles which run `init_from=latest` means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from gantry.core.config.overrides import quoted, without_passwords
from gantry.core.config.places import overrides_from
from gantry.core.config.typed import plain
from gantry.core.errors import UserError
from gantry.core.processes import parent_watch
from gantry.core.processes.ranks import find_place
from gantry.core.text import show
from gantry.runs.find import (
    AUTO,
    BEST,
    LATEST,
    OPEN_ORIGINS,
    find,
    find_run,
    find_sweep,
    has_generator,
    on_this_machine,
)
from gantry.runs.find_checkpoint import Origin, find_checkpoint, refuse_taken
from gantry.runs.folder import OVERRIDES
from gantry.runs.run_config import home_of
from gantry.runs.sweep_record import load_sweep
from gantry.runs.tracking import variables
from gantry.runs.tracking.identity import read_plan
from gantry.runs.tracking.query import Store, configured_store
from gantry.runs.tracking.store import locate
from gantry.runs.tracking.tracker import log

ORIGIN = "init_from="


def sweep_arguments(given: Sequence[str]) -> list[str]:
    """Return the command line with what `sweep.resume=...` implies: the sweep's folder, its store and its overrides.

    Overrides typed beside it win over the sweep's: `seed=0,1,2,3` adds a seed.

    Raises:
        UserError: there is no such sweep.
    """
    asked = [text.partition("=")[2] for text in given if text.startswith("sweep.resume=")]
    if not asked or asked[-1] in ("", "null") or parent_watch.LEASH in os.environ:  # a job's is for its sweep
        return list(given)
    word = plain(asked[-1])
    folder = on_this_machine(find_sweep(word, "sweep.resume", lambda: _store(given)), f"sweep.resume={word}")
    words = [text for text in given if not text.startswith("-") and ("=" in text or text.startswith("~"))]
    flags = [text for text in given if text not in words]
    words = [text for text in words if not text.startswith("sweep.resume=")]
    record = load_sweep(folder)
    words = [*without_passwords(record.overrides, words), *words]
    named = any(text.startswith(("tracking=", "tracking.uri=")) for text in words)
    if record.tracking_uri is not None and not named and not variables.has_password_of(record.tracking_uri):
        # The default is a folder below that in which the sweep was started.
        words += [f"tracking.uri={quoted(record.tracking_uri)}", f"tracking.experiment={quoted(record.experiment)}"]
    if not {"-m", "--multirun"} & set(flags):
        flags.append("-m")
    return [*flags, *words, f"sweep.resume={quoted(folder)}", f"hydra.sweep.dir={quoted(folder)}"]


def run_arguments(given: Sequence[str]) -> list[str]:
    """Return the command line with what `resume=...` implies: the run's folder and its overrides.

    Overrides typed beside it win over the run's. With a checkpoint's file the run is a new one, with those overrides.

    Raises:
        UserError: there is no such run.
    """
    asked = [plain(text.partition("=")[2]) for text in given if text.startswith("resume=")]
    if not asked or asked[-1] in ("", "null") or parent_watch.LEASH in os.environ:  # a rank's is for its run
        return list(given)
    if {"-m", "--multirun"} & set(given):
        raise UserError("resume= goes on with one run; a sweep is taken up with sweep.resume=")
    try:
        if (origin := find_checkpoint(asked[-1])) is not None:
            return _from_checkpoint(origin, given)
        folder = find_run(asked[-1], given, lambda: _store(given))
    except UserError:
        if find_place().rank > 0:
            return list(given)  # the folder is on another machine; `Peers.check_same` compares the configs
        raise
    if folder is None:
        return [text for text in given if not text.startswith("resume=")]
    _keep_store(folder)
    unsettled = OPEN_ORIGINS if asked[-1] == AUTO else ()  # the run's own overrides name the weights it began with
    given = [text for text in given if text not in unsettled]
    # Without its output_subdir Hydra does not overwrite the overrides with which the run began.
    here = [f"resume={quoted(folder)}", f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]
    return [*_with_overrides_of(folder, given), *here]


def _from_checkpoint(origin: Origin, given: Sequence[str]) -> list[str]:
    """Return the command line of a new run that begins at another's checkpoint.

    Raises:
        UserError: it names a folder that holds a run, whose `.hydra` Hydra would overwrite.
    """
    named = [plain(text.partition("=")[2]) for text in given if text.startswith("hydra.run.dir=")]
    if named:
        refuse_taken(Path(named[-1]))
    return [*_with_overrides_of(origin.run, given), f"resume={quoted(origin.checkpoint.path)}"]


def _with_overrides_of(folder: Path, given: Sequence[str]) -> list[str]:
    """Return the command line with the overrides of the run in `folder`, without any `resume=`."""
    own = without_passwords([str(text) for text in OmegaConf.load(folder / OVERRIDES)], given)
    if home := home_of(folder):
        own = overrides_from(home.now, own)
    flags = [text for text in given if text.startswith("-") or ("=" not in text and not text.startswith("~"))]
    others = [text for text in given if text not in flags and not text.startswith("resume=")]
    return [*flags, *own, *others]


def _keep_store(folder: Path) -> None:
    """Let a run go on in the store in which it began, unless the command line or a config of the user's names one.

    MLflow's variables may name another today than when it began, or the working directory may be another.
    """
    plan = read_plan(folder)
    if plan is None or plan.password_hidden:
        return
    default, kept = locate(Path("mlruns")), locate(plan.uri)
    if kept.database is None or kept.database.exists():
        variables.keep(str(default.folder) if kept == default else plan.uri, plan.experiment, plan.by_id)


def settled_origin(given: Sequence[str]) -> list[str]:
    """Return the command line with the run that `init_from=latest` or `best` means now in place of the word.

    So all jobs of a sweep begin with the same weights, and a run that goes on names those it began with. Rank 0 alone
    loads them; another machine may have no such run.

    Raises:
        UserError: there is no such run.
    """
    here = find_place().rank == 0
    return [_settled(text) if here and text.startswith(ORIGIN) else text for text in given]


def _settled(override: str) -> str:
    """Return `init_from=...` with folders in place of `latest` and `best`, and quoted where Hydra would misread it."""
    as_text = f"{ORIGIN}{quoted(override.removeprefix(ORIGIN))}"
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:
        return as_text
    words = value.list if isinstance(value, ChoiceSweep) else [value]
    if any(word in (LATEST, BEST) for word in words):
        return ORIGIN + ",".join(_folder(word) for word in words)
    return as_text if isinstance(value, int | float) else override  # an id may look like a number


def _folder(word: Any) -> str:
    if word in (LATEST, BEST):
        found = find(word, "init_from", has_generator, lambda: None)
        return quoted(show(on_this_machine(found, f"init_from={word}")))
    return "null" if word is None else quoted(word.text if isinstance(word, QuotedString) else word)


def _store(given: Sequence[str]) -> Store | None:
    """Return the tracking store that a command line names; None, with a warning, where it cannot be used."""
    if "tracking=none" in given:
        return None
    typed = dict(text.split("=", 1) for text in given if text.startswith("tracking.") and "=" in text)
    uri = plain(typed.get("tracking.uri", variables.store_uri() or str(Path("mlruns").absolute())))
    experiment = plain(typed.get("tracking.experiment", variables.experiment() or variables.EXPERIMENT))
    try:
        return configured_store({"uri": uri, "experiment": experiment}, needed=False)
    except UserError as error:  # the run may be found, or refused, without the store
        log.warning("%s", error)
        return None


def arguments(given: Sequence[str]) -> list[str]:
    """Return the command line with what `resume=...`, `sweep.resume=...` and `init_from=latest` imply.

    Raises:
        UserError: there is no such run or sweep.
    """
    variables.drop_empty()
    return settled_origin(run_arguments(sweep_arguments(given)))
