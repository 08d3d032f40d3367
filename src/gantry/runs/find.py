"""Finds runs and sweeps by name, id, folder or keyword; all commands accept the same words."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from gantry.core.config.overrides import identity
from gantry.core.config.typed import plain
from gantry.core.errors import UserError
from gantry.core.files import read_json
from gantry.core.processes.locks import is_held
from gantry.core.text import show, typed_command
from gantry.runs.directions import HIGHER, higher_is_better, parse
from gantry.runs.folder import (
    CONFIG_FILE,
    GENERATOR,
    OVERRIDES,
    RUN_FILE,
    STATUS_FILE,
    SUMMARY_FILE,
    TAGS_FILE,
    state_of,
)
from gantry.runs.sweep_record import HYDRA_SWEEP, SWEEP_FILE, load_sweep
from gantry.runs.tracking.status import FOLDER, PARENT

if TYPE_CHECKING:
    from mlflow.entities import Run as MLflowRun

    from gantry.runs.tracking.query import Store


AUTO, LATEST, BEST = "auto", "latest", "best"
WORDS = "a folder, an id or a name in MLflow, latest or best"
OPEN_ORIGINS = (f"init_from={LATEST}", f"init_from={BEST}")  # overrides that mean another run at another time
NAMED = 5  # number of runs listed in the message when one is not found

Opener = Callable[[], "Store | None"]  # opens the MLflow store; called only if no folder here matches


class NoSuchRun(UserError):
    """There is no run or sweep of the given name."""


@dataclass(frozen=True)
class Found:
    """A run or a sweep.

    Attributes:
        folder: its files on this machine; None where only MLflow has them.
        tracked, store: its MLflow run and the store, if it was looked up in MLflow.
    """

    folder: Path | None
    tracked: MLflowRun | None = None
    store: Store | None = None

    @property
    def is_sweep(self) -> bool:
        """True for a sweep, False for a single run or a job."""
        if self.folder is not None:
            return (self.folder / SWEEP_FILE).exists()
        return self.tracked is not None and self.tracked.data.tags.get("gantry.kind") == "sweep"


def is_sweep(folder: Path) -> bool:
    """Return True if `folder` contains a sweep with a readable record."""
    return read_json(folder / SWEEP_FILE) is not None


def is_recorded(folder: Path) -> bool:
    """Return True if `folder` contains the record of a run or of an evaluation."""
    return any((folder / file).exists() for file in (TAGS_FILE, STATUS_FILE))


def has_generator(folder: Path) -> bool:
    """Return True if `folder` contains a run that has exported a generator."""
    return (folder / GENERATOR).is_dir() and (folder / CONFIG_FILE).exists()


def can_go_on(folder: Path) -> bool:
    """Return True if `folder` contains a run that Hydra started, whose command line is known."""
    return (folder / OVERRIDES).exists()


def has_begun(folder: Path) -> bool:
    """Return True if `folder` contains a run that has left more than the folder of a refused command."""
    return can_go_on(folder) and state_of(folder) != "new"


def here(wanted: Callable[[Path], bool]) -> list[Path]:
    """Return the wanted folders in `outputs` of the current folder, including jobs of sweeps, latest start first."""
    outputs = Path("outputs").absolute()
    folders = [folder for depth in ("*/*", "*/*/*") for folder in outputs.glob(depth) if wanted(folder)]
    return sorted(folders, key=begun, reverse=True)


def begun(folder: Path) -> float:
    """Return the start of the latest attempt at a run or sweep in seconds since 1970; 0 where it is unknown."""
    dated = (folder / file for file in (HYDRA_SWEEP, CONFIG_FILE, OVERRIDES, SWEEP_FILE))
    return next((file.stat().st_mtime for file in dated if file.exists()), 0.0)


def find(word: str, option: str, wanted: Callable[[Path], bool], store: Opener, by_name: bool = True) -> Found:
    """Find the run or sweep called `word`; of several with one name, the latest.

    Args:
        word: see `WORDS`.
        option: the option it was given to, such as `run`; messages begin with it.
        wanted: selects the folders among which `latest` and `best` choose, such as `has_generator`.
        by_name: match names too, not only folders and ids.

    Raises:
        NoSuchRun: there is none; the message names the latest ones.
        UserError: there are no runs for `latest` or `best` to choose among.
    """
    folder = Path(word).expanduser().absolute()
    if word and folder.is_dir():
        return Found(folder)
    what = "sweep" if wanted is is_sweep else "run"
    if word in (LATEST, BEST):
        if not (known := here(wanted)):
            raise UserError(
                f"{option}={word}: no {what} in {Path('outputs').absolute()}; {typed_command('train')} makes one"
            )
        return Found(_best(known, option) if word == BEST else known[0])
    for folder in here(lambda one: is_sweep(one) or (one / RUN_FILE).exists()):
        if word in _called(folder, by_name):
            return Found(folder)
    opened = store() if word else None
    if opened is not None and (run := opened.get(word) or (opened.named(word) if by_name else None)) is not None:
        return Found(_its_folder(run), run, opened)
    tracked = opened.sweeps()[:NAMED] if opened is not None and wanted is is_sweep else []
    newest = [f"{run.info.run_id}  {run.info.run_name}" for run in tracked] or [
        show(path) for path in here(wanted)[:NAMED]
    ]
    there_are = "\n  ".join(["the newest:", *newest]) if newest else f"there is none in {Path('outputs').absolute()}"
    raise NoSuchRun(f"{option}={word}: no such {what} ({WORDS}); {there_are}")


def _called(folder: Path, by_name: bool) -> set[str | None]:
    """Return the ids of a run or a sweep in MLflow and, if `by_name`, its names."""
    run, sweep = (read_json(folder / file) or {} for file in (RUN_FILE, SWEEP_FILE))
    names = {run.get("run_name"), sweep.get("name"), folder.name if sweep else None} if by_name else set()
    return names | {run.get("run_id"), sweep.get("parent_run")}


def _its_folder(run: MLflowRun) -> Path | None:
    """Return the folder that an MLflow run names, if it exists here and contains that run's id.

    Results are written there, so the path in the store alone is not sufficient.
    """
    folder = Path(run.data.tags.get(FOLDER, os.devnull))
    return folder if run.info.run_id in _called(folder, by_name=False) else None


def find_sweep(word: str, option: str, store: Opener) -> Found:
    """Find the sweep called `word`, or the sweep of the job called `word`; see `find`.

    Raises:
        UserError: there is none.
    """
    if word == BEST:
        jobs = here(lambda folder: (folder / SUMMARY_FILE).exists() and is_sweep(folder.parent))
        if not jobs:
            raise UserError(f"{option}={word}: no job of a sweep in {Path('outputs').absolute()} has finished")
        return Found(_best(jobs, option).parent)
    found = find(word, option, is_sweep, store)
    if found.is_sweep:
        return found
    if found.folder is not None:
        if (found.folder.parent / SWEEP_FILE).exists():
            return Found(found.folder.parent)
        raise UserError(f"{option}={word}: {show(found.folder)} holds no sweep, which has a {SWEEP_FILE}")
    parent = found.tracked.data.tags.get(PARENT) if found.tracked is not None else None
    if parent is None:
        raise UserError(f"{option}={word}: a single run, of no sweep")
    return find(parent, option, is_sweep, store)


def find_run(word: str, arguments: Sequence[str], store: Opener) -> Path | None:
    """Return the folder of the run that `resume=` continues.

    Args:
        word: see `WORDS`; or "auto" for the latest unfinished run with this command line.
        arguments: the command line.

    Returns:
        None where "auto" finds no run to continue.

    Raises:
        UserError: there is no such run, or not on this machine.
    """
    if word == AUTO:
        return _unfinished(arguments)
    found = find(word, "resume", has_begun, store)
    folder = on_this_machine(found, f"resume={word}")
    if found.is_sweep:
        raise UserError(f"resume={word}: {show(folder)} is a sweep; sweep.resume={word} takes it up")
    if not can_go_on(folder):
        raise UserError(f"resume={word}: no such run; {show(folder)} has no {OVERRIDES}, as a run's folder has")
    return folder


def on_this_machine(found: Found, typed: str) -> Path:
    """Return the folder of a found run or sweep.

    Args:
        typed: the option as it was given, for the message.

    Raises:
        UserError: it is on another machine, or the folder now contains another run.
    """
    if found.folder is None:
        where = found.tracked.data.tags.get(FOLDER, "") if found.tracked is not None else ""
        raise UserError(f"{typed}: its folder {where} is not on this machine; it can only go on there")
    return found.folder


def _unfinished(arguments: Sequence[str]) -> Path | None:
    """Return the latest run of this command line that has begun, has not finished and is not running."""
    ignored = "init_from=" if any(text in OPEN_ORIGINS for text in arguments) else None

    def asked_of(overrides: Iterable[str]) -> tuple[str, ...]:
        return identity([text for text in _own(overrides) if ignored is None or not text.startswith(ignored)])

    asked = asked_of(arguments)
    given = [plain(text.partition("=")[2]) for text in arguments if text.startswith("hydra.run.dir=")]
    for folder in [Path(given[-1]).absolute()] if given else here(can_go_on):
        file = folder / OVERRIDES
        alike = file.exists() and asked_of(map(str, OmegaConf.load(file))) == asked
        if alike and (given or (state_of(folder) in ("continues", "again") and not is_held(folder))):
            return folder
    return None


def _own(overrides: Iterable[str]) -> list[str]:
    return [text for text in overrides if "=" in text and not text.startswith("resume=")]


def _best(known: Sequence[Path], option: str) -> Path:
    """Return the run with the best first metric among those measured in the same way as the newest finished one."""
    summaries = {folder: read_json(folder / SUMMARY_FILE) for folder in known}
    finished = {folder: summary for folder, summary in summaries.items() if summary}
    if not finished:
        raise UserError(f"{option}=best: no run here has finished; {option}=latest takes one that has not")
    newest = next(iter(finished.values()))
    alike = {
        folder: summary["best"].get(summary["primary"])
        for folder, summary in finished.items()
        if (summary["primary"], summary["protocol"]) == (newest["primary"], newest["protocol"])
    }
    higher = higher_is_better(newest["primary"], parse(newest.get(HIGHER)))
    worst = -math.inf if higher else math.inf
    values = {folder: worst if value is None else value for folder, value in alike.items()}
    best = (max if higher else min)(values, key=lambda folder: values[folder])
    which = "highest" if higher else "lowest"
    explanation = f"the {which} best/{newest['primary']}, {values[best]:.4g}, of {len(values)} runs measured alike"
    others = [folder for folder in finished if folder not in alike]
    left_out = f"; {_measured_otherwise(others, finished, option)}" if others else ""
    print(f"{option}={show(best)}: {explanation}{left_out}", flush=True)
    return best


def _measured_otherwise(others: Sequence[Path], summaries: Mapping[Path, dict[str, Any]], option: str) -> str:
    """Say that runs are left out since they were measured otherwise than the newest, the newest of them as an example.

    Their values are not comparable, so that there is no best of all.
    """
    example = summaries[others[0]]
    value, protocol = example["best"].get(example["primary"]), example["protocol"]
    said = "not finite" if value is None else f"{value:.4g}"
    images = f" on {protocol['n_generated']} images" if "n_generated" in protocol else ""
    return (
        f"{len(others)} measured otherwise are left out, the newest with best/{example['primary']} {said}{images}: "
        f"{option}={show(others[0])} takes it, {option}=<a sweep's folder>/<job> one of a sweep"
    )


def runs_of(found: Found) -> list[Found]:
    """Return the run itself, or the runs of a sweep."""
    if not found.is_sweep:
        return [found]
    if found.folder is not None:
        return [Found(found.folder / job.folder) for job in load_sweep(found.folder).jobs]
    assert found.store is not None
    assert found.tracked is not None
    return [Found(_its_folder(run), run, found.store) for run in found.store.children(found.tracked.info.run_id)]
