"""Finds runs that have exported a generator, and downloads those without a folder here from MLflow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.errors import UserError
from gantry.core.files import read_json, write_json
from gantry.core.text import show
from gantry.runs.find import Found, Opener, find, has_generator, runs_of
from gantry.runs.folder import CONFIG_FILE, ENVIRONMENT, EVALUATIONS, GENERATOR, RUN_FILE, SUMMARY_FILE, TAGS_FILE

if TYPE_CHECKING:
    from gantry.runs.tracking.query import Store


class NoGenerator(UserError):
    """A run has not exported a generator."""


@dataclass(frozen=True)
class FoundRun:
    """A run with an exported generator.

    Attributes:
        folder: its files, perhaps downloaded from MLflow.
        run_id: of its MLflow run; None where it has none.
        fetched: True if the folder is a copy of MLflow's artifacts.
    """

    folder: Path
    run_id: str | None = None
    fetched: bool = False


def find_generators(
    words: Sequence[str], store: Opener, cache: Path, by_name: bool = True, option: str = "run"
) -> list[FoundRun]:
    """Find the runs with a generator that a user names, each once, in the given order; of a sweep all that have one.

    Args:
        words: see `WORDS`.
        store, by_name: see `find`.
        cache: folder for files downloaded from MLflow.
        option: the option they were given to; messages begin with it.

    Raises:
        UserError: there is no such run, or it has exported no generator.
    """
    found = [run for word in words for run in _of_word(word, store, cache, by_name, option)]
    return list({run.folder: run for run in found}.values())


def _of_word(word: str, store: Opener, cache: Path, by_name: bool, option: str) -> list[FoundRun]:
    found = find(word, option, has_generator, store, by_name)
    if not found.is_sweep:
        return [_with_generator(found, cache, option)]
    jobs, runs = runs_of(found), []
    for job in jobs:
        try:
            runs.append(_with_generator(job, cache, option))
        except NoGenerator:
            continue
    if not runs:
        raise UserError(f"{option}={word}: none of the sweep's {len(jobs)} runs has exported a generator")
    if len(runs) < len(jobs):
        print(f"{len(jobs) - len(runs)} of the sweep's runs have exported no generator: left out", flush=True)
    return runs


def _with_generator(found: Found, cache: Path, option: str) -> FoundRun:
    if found.folder is not None and (found.tracked is None or (found.folder / GENERATOR).is_dir()):
        return run_in(found.folder, option)
    assert found.store is not None
    assert found.tracked is not None
    return _fetched(found.store, found.tracked.info.run_id, cache, option)


def run_in(folder: Path, option: str = "run") -> FoundRun:
    """Return the run in `folder`.

    Raises:
        UserError: there is none, or it has exported no generator.
    """
    if not (folder / CONFIG_FILE).exists():
        raise NoGenerator(f"{option}={show(folder)}: holds no run, which has a {CONFIG_FILE}")
    if not (folder / GENERATOR).is_dir():
        raise NoGenerator(
            f"{option}={show(folder)}: the run has exported no generator; it does so when it is first measured"
        )
    return FoundRun(folder.absolute(), (read_json(folder / RUN_FILE) or {}).get("run_id"))


def _fetched(store: Store, run_id: str, cache: Path, option: str) -> FoundRun:
    """Copy the run's config and generators from MLflow, which ensures that file names stay within the folder."""
    from mlflow.exceptions import MlflowException

    if not re.fullmatch(r"\w[\w-]{,63}", run_id):  # it becomes a folder's name
        raise UserError(f"{option}={run_id}: not an id of MLflow's, which has letters, digits, _ and - alone")
    folder = cache / "runs" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    held = {item.path for item in store.client.list_artifacts(run_id)}
    if not {GENERATOR, CONFIG_FILE} <= held:
        raise NoGenerator(f"{option}={run_id}: the run has logged no generator to MLflow; it does so when it ends")
    try:
        for item in held & {GENERATOR, CONFIG_FILE, SUMMARY_FILE, EVALUATIONS, ENVIRONMENT}:
            store.client.download_artifacts(run_id, item, str(folder))
        write_json(dict(store.client.get_run(run_id).data.tags), folder / TAGS_FILE)
    except (MlflowException, OSError) as error:
        raise UserError(f"{option}={run_id}: its generator cannot be fetched from MLflow: {error}") from error
    return FoundRun(folder, run_id, fetched=True)
