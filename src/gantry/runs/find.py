"""Finds the folder of a sweep, or of a single run, by what a user may call it."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from gantry.core.config.definitions import find, is_trusted
from gantry.core.config.overrides import identity
from gantry.core.errors import UserError
from gantry.core.files import read_json, write_json
from gantry.core.processes.locks import is_held
from gantry.core.text import show
from gantry.runs.directions import HIGHER, higher_is_better, parse
from gantry.runs.folder import (
    CONFIG_FILE,
    ENVIRONMENT,
    EVALUATIONS,
    GENERATOR,
    RUN_FILE,
    SUMMARY_FILE,
    TAGS_FILE,
    state_of,
)
from gantry.runs.sweep_record import SWEEP_FILE, load_sweep

if TYPE_CHECKING:
    from gantry.runs.tracking.query import Store


SHOWN = 5  # named where there is none of that name
AUTO = "auto"
OVERRIDES = Path(".hydra/overrides.yaml")  # in a run's folder
NAMED = 5  # runs named where one is not found
HOW = "a run's folder, its MLflow id, latest, best, or a sweep's folder for all of its runs"


def find_sweep(name: str, arguments: Sequence[str] = ()) -> Path:
    """The folder of the sweep called `name`.

    Args:
        name: its folder, or its run's id or name in MLflow.
        arguments: the command line, which may name the tracking store.

    Raises:
        UserError: there is none, or MLflow knows one whose folder is not here.
    """
    name = name.strip("'\"")
    folder = Path(name).expanduser().absolute()
    if (folder / SWEEP_FILE).exists():
        return folder
    known = sweeps_here()
    for path in known:
        record = read_json(path / SWEEP_FILE) or {}
        if name in (path.name, record.get("parent_run"), record.get("name")):
            return path
    if (found := _in_store(name, arguments)) is not None:
        return found
    newest = [f"  {path}" for path in known[:SHOWN]]
    there_are = (
        "\n".join(["the newest here:", *newest]) if newest else f"there are no sweeps in {Path('outputs').absolute()}"
    )
    raise UserError(f"sweep.resume={name}: no such sweep (a sweep's folder, or its run's id or name); {there_are}")


def sweeps_here() -> list[Path]:
    """The sweeps in `outputs` of the current folder, the newest first."""
    files = Path("outputs").absolute().glob(f"*/*/{SWEEP_FILE}")
    sound = [file.parent for file in files if read_json(file) is not None]
    return sorted(sound, reverse=True)


def find_run(name: str, arguments: Sequence[str]) -> Path | None:
    """The folder of the run called `name`.

    Args:
        name: its folder; its run's id in MLflow; or "auto" for the latest unfinished run of this very command line.
        arguments: the command line.

    Returns:
        None where "auto" finds nothing to go on with.

    Raises:
        UserError: there is no such run.
    """
    if name == AUTO:
        return _unfinished(arguments)
    folder = Path(name).expanduser().absolute()
    if (folder / OVERRIDES).exists():
        return folder
    known = _runs_here()
    for path in known:
        if (read_json(path / RUN_FILE) or {}).get("run_id") == name:
            return path
    if not folder.exists() and name.isalnum() and (found := _run_in_store(name, arguments)) is not None:
        return found
    newest = "".join(f"\n  {path}" for path in known[:SHOWN])
    there_are = f"the newest here:{newest}" if newest else f"there is none in {Path('outputs').absolute()}"
    raise UserError(
        f"resume={name}: no such run (a run's folder, which has a {OVERRIDES}; its id in MLflow; or auto for the "
        f"latest unfinished run of the same command line); {there_are}"
    )


def _unfinished(arguments: Sequence[str]) -> Path | None:
    """The latest run of this command line that has begun, has not finished and is not running."""
    asked = identity(_own(arguments))
    given = [text.partition("=")[2].strip("'\"") for text in arguments if text.startswith("hydra.run.dir=")]
    folders = [Path(given[-1]).absolute()] if given else _runs_here()
    for folder in folders:
        file = folder / OVERRIDES
        alike = file.exists() and identity(_own(map(str, OmegaConf.load(file)))) == asked
        if alike and (given or (state_of(folder) in ("continues", "again") and not is_held(folder))):
            return folder
    return None


def _own(overrides: Iterable[str]) -> list[str]:
    return [text for text in overrides if "=" in text and not text.startswith("resume=")]


def _runs_here() -> list[Path]:
    """The runs in `outputs` of the current folder, jobs of sweeps included, the newest first."""
    files = [file for depth in ("*/*", "*/*/*") for file in Path("outputs").absolute().glob(f"{depth}/{OVERRIDES}")]
    return sorted((file.parents[1] for file in files), key=lambda folder: folder.stat().st_ctime, reverse=True)


def _run_in_store(run_id: str, arguments: Sequence[str]) -> Path | None:
    from gantry.runs.tracking.sweep_run import folder_of_run

    uri, experiment = _store(arguments)
    folder = folder_of_run(uri, experiment, run_id)
    if folder is not None and not (folder / OVERRIDES).exists():
        raise UserError(f"resume={run_id}: its folder {folder} is not on this machine; it can only go on there")
    return folder


def _in_store(name: str, arguments: Sequence[str]) -> Path | None:
    from gantry.runs.tracking.sweep_run import folder_of_sweep

    uri, experiment = _store(arguments)
    folder = folder_of_sweep(uri, experiment, name)
    if folder is not None and not (folder / SWEEP_FILE).exists():
        raise UserError(f"sweep.resume={name}: its folder {folder} is not on this machine; it can only go on there")
    return folder


def _store(arguments: Sequence[str]) -> tuple[str, str]:
    """The address of the tracking store and the experiment that a command line names."""
    given = dict(text.split("=", 1) for text in arguments if text.startswith("tracking.") and "=" in text)
    uri = given.get("tracking.uri", str(Path("mlruns").absolute())).strip("'\"")
    return uri, given.get("tracking.experiment", "gantry")


class NoSuchRun(UserError):
    """No run is called so."""


@dataclass(frozen=True)
class FoundRun:
    """A run with an exported generator.

    Attributes:
        folder: its files, perhaps fetched from MLflow.
        run_id: of its MLflow run; None where it has none.
        fetched: whether the folder is a copy of what MLflow holds.
    """

    folder: Path
    run_id: str | None = None
    fetched: bool = False

    @property
    def config(self) -> DictConfig:
        """The config it was trained with.

        Raises:
            UserError: it cannot be read, or is of something else.
        """
        path = self.folder / CONFIG_FILE
        try:
            loaded = OmegaConf.load(path)
        except (YAMLError, OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(loaded, DictConfig) or "data" not in loaded:
            raise UserError(f"{path} is not a run's config: it names no data")
        return loaded

    def data(self, trusted: Sequence[str]) -> dict[str, Any]:
        """What the config says of the data it was trained on, as plain values.

        Args:
            trusted: see `GeneratorFiles`; what makes the data must stand there, or in gantry.data.

        Raises:
            UserError: it does not, or the config cannot be read or is to be filled in from this machine's environment.
        """
        node: Any = OmegaConf.to_container(self.config, resolve=False)["data"]  # type: ignore[index, call-overload]
        path = self.folder / CONFIG_FILE
        if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
            raise UserError(f"{path} is not a run's config: its data has no _target_")
        for key, value in _leaves(node):
            if isinstance(value, str) and "${" in value:
                raise UserError(
                    f"{path}: data.{key} is {value}, which a finished run's config spells out; data=... tells"
                )
            if key.rpartition(".")[2] == "_target_" and not _defined_in(str(value), ("gantry.data", *trusted)):
                known = ", ".join(("gantry.data.", *trusted))
                raise UserError(
                    f"{path} names {value} as what makes its data; trusted is what is defined in {known}. If you "
                    f"trust its code: trusted=[{str(value).partition('.')[0]}.]; data=... measures against other data"
                )
        return node


def find_runs(wanted: Sequence[str], store: Callable[[], Store | None], cache: Path) -> list[FoundRun]:
    """The runs a user names, each once, in the order given.

    Args:
        wanted: what each is called, see `HOW`.
        store: opens the MLflow store; called only for ids that no folder here has. None where there is none.
        cache: where what only MLflow has is fetched to.

    Raises:
        UserError: there is no such run, or it has exported no generator.
    """
    found = [run for name in wanted for run in find_generator_runs(name, store, cache)]
    return list({run.folder: run for run in found}.values())


def _defined_in(name: str, trusted: Sequence[str]) -> bool:
    """Whether what `name` leads to is defined in one of `trusted`: mine.os.system is not, though `mine` imports os."""
    if not is_trusted(name, trusted):
        return False
    found = find(name)
    if found is None or not isinstance(found.statement, ast.FunctionDef | ast.ClassDef):  # an import, perhaps
        return False
    return is_trusted(f"{found.module.name}.{found.statement.name}", trusted)


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dicts and lists, with their dotted keys."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if children is None:
        yield key, node
        return
    for name, child in children:
        yield from _leaves(child, f"{key}.{name}".lstrip("."))


def find_generator_runs(name: str, store: Callable[[], Store | None], cache: Path) -> list[FoundRun]:
    folder = Path(name).expanduser().absolute()
    if folder.is_dir():
        if (folder / SWEEP_FILE).exists():
            return _of_sweep(folder)
        return [run_in(folder)]
    known = generators_here()
    if name in ("latest", "best"):
        if not known:
            raise UserError(f"run={name}: no run in {Path('outputs').absolute()}; python train.py makes one")
        return [run_in(known[0] if name == "latest" else _best(known))]
    for folder in known:
        if (read_json(folder / RUN_FILE) or {}).get("run_id") == name:
            return [run_in(folder)]
    opened = store()
    if opened is not None and (run := opened.get(name)) is not None:
        folder = Path(run.data.tags.get("gantry.folder", "/nowhere"))
        # Results are written there, so a store's word for where a run is is not enough.
        its_own = (read_json(folder / RUN_FILE) or {}).get("run_id") == name
        return [run_in(folder) if its_own and (folder / GENERATOR).is_dir() else _fetched(opened, name, cache)]
    newest = "\n  ".join(["", *(show(folder) for folder in known[:NAMED])])
    there_are = f"the newest here:{newest}" if known else f"there is none in {Path('outputs').absolute()}"
    raise NoSuchRun(f"run={name}: no such run ({HOW}); {there_are}")


def run_in(folder: Path) -> FoundRun:
    if not (folder / CONFIG_FILE).exists():
        raise UserError(f"run={show(folder)}: holds no run, which has a {CONFIG_FILE}")
    if not (folder / GENERATOR).is_dir():
        raise UserError(f"run={show(folder)}: the run has exported no generator; it does so when it is first measured")
    return FoundRun(folder.absolute(), (read_json(folder / RUN_FILE) or {}).get("run_id"))


def _of_sweep(folder: Path) -> list[FoundRun]:
    jobs = [folder / job.folder for job in load_sweep(folder).jobs]
    found = [run_in(job) for job in jobs if (job / GENERATOR).is_dir()]
    if not found:
        raise UserError(f"run={show(folder)}: none of the sweep's {len(jobs)} runs has exported a generator")
    if len(found) < len(jobs):
        print(f"{len(jobs) - len(found)} of the sweep's runs have exported no generator: left out", flush=True)
    return found


def generators_here() -> list[Path]:
    """The runs in `outputs` of the current folder that have exported a generator, the newest first."""
    folders = [
        path.parent.absolute()
        for depth in ("*/*", "*/*/*")
        for path in Path("outputs").glob(f"{depth}/{GENERATOR}")
        if (path.parent / CONFIG_FILE).exists()
    ]
    return sorted(folders, key=lambda folder: (folder / CONFIG_FILE).stat().st_mtime, reverse=True)


def _best(known: Sequence[Path]) -> Path:
    """The run with the best value of the first metric among those measured as the newest finished one was."""
    summaries = {folder: read_json(folder / SUMMARY_FILE) for folder in known}
    finished = {folder: summary for folder, summary in summaries.items() if summary}
    if not finished:
        raise UserError("run=best: no run here has finished; run=latest takes one that has not")
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
    said = f"the {which} best/{newest['primary']}, {values[best]:.4g}, of {len(values)} runs measured alike"
    print(f"run={show(best)}: {said}", flush=True)
    return best


def _fetched(store: Store, run_id: str, cache: Path) -> FoundRun:
    """The run's config and generators, copied from MLflow, which keeps names of files within the folder."""
    from mlflow.exceptions import MlflowException

    if not re.fullmatch(r"\w[\w-]{,63}", run_id):  # it becomes a folder's name
        raise UserError(f"run={run_id}: not an id of MLflow's, which has letters, digits, _ and - alone")
    folder = cache / "runs" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    held = {item.path for item in store.client.list_artifacts(run_id)}
    if not {GENERATOR, CONFIG_FILE} <= held:
        raise UserError(f"run={run_id}: the run has logged no generator to MLflow; it does so when it ends")
    try:
        for item in held & {GENERATOR, CONFIG_FILE, SUMMARY_FILE, EVALUATIONS, ENVIRONMENT}:
            store.client.download_artifacts(run_id, item, str(folder))
        write_json(dict(store.client.get_run(run_id).data.tags), folder / TAGS_FILE)
    except (MlflowException, OSError) as error:
        raise UserError(f"run={run_id}: its generator cannot be fetched from MLflow: {error}") from error
    return FoundRun(folder, run_id, fetched=True)
