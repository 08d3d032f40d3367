"""What `python evaluate.py` measures: a run's generator, found by what a user may call it."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from gantry.definitions import find, is_trusted
from gantry.errors import UserError
from gantry.generators import GENERATOR, ExportedFiles, GeneratorFiles
from gantry.launch.record import SWEEP_FILE, load_sweep, read_json
from gantry.results import FOLDER as EVALUATIONS
from gantry.summary import FILE as SUMMARY_FILE
from gantry.summary import show
from gantry.tracking.base import RUN_FILE
from gantry.tracking.folder import TAGS_FILE, write_json

if TYPE_CHECKING:
    from gantry.tracking.query import Store

CONFIG_FILE, ENVIRONMENT = "config.yaml", "environment.json"
EXPORTED = "generator.json"  # in a folder with an exported generator (see `gantry.export`)
NAMED = 5  # runs named where one is not found
HOW = "a run's folder, its MLflow id, latest, best, or a sweep's folder for all of its runs"


REGISTERED = "models:/"
GENERATORS = "a run's folder, its MLflow id, latest, best, an exported generator's folder, or a registered model"


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
    found = [run for name in wanted for run in _find(name, store, cache)]
    return list({run.folder: run for run in found}.values())


@dataclass(frozen=True)
class FoundGenerator:
    """A generator by a user's word for it.

    Attributes:
        files: its files.
        run: the run it is of; None where it came by itself.
    """

    files: ExportedFiles | GeneratorFiles
    run: FoundRun | None = None

    @property
    def title(self) -> str:
        """What it is called on the terminal."""
        return show(self.files.folder)


def find_generator(
    name: str, which: str, raw: bool, trusted: tuple[str, ...], store: Callable[[], Store | None], cache: Path
) -> FoundGenerator:
    """The generator a user names: of a run (see `find_runs`), of an exported folder, or a registered model's.

    Args:
        name: what it is called, see `GENERATORS`.
        which, raw, trusted: see `GeneratorFiles`; the first two choose among a run's.
        store, cache: see `find_runs`.

    Raises:
        UserError: there is no such generator, several, or not the raw one.
    """
    folder = Path(name).expanduser().absolute()
    if (folder / EXPORTED).is_file():
        run = folder.parent.parent if folder.parent.name == GENERATOR else None
        of_run = run is not None and (run / CONFIG_FILE).exists()
        return _alone(
            FoundGenerator(ExportedFiles(folder, trusted), _here(run) if of_run and run else None), which, raw
        )
    if folder.is_dir() and not (folder / CONFIG_FILE).exists() and not (folder / SWEEP_FILE).exists():
        raise UserError(
            f"run={show(folder)}: holds neither a run, which has a {CONFIG_FILE}, nor an exported generator, "
            f"which has a {EXPORTED}"
        )
    if name.startswith(REGISTERED):
        return _alone(_registered(name, store, cache, trusted), which, raw)
    try:
        runs = find_runs([name], store, cache)
    except NoSuchRun as error:
        found = _registered(name, store, cache, trusted, error)
        return _alone(found, which, raw)
    if len(runs) > 1:
        raise UserError(
            "\n  ".join([f"run={name}: {len(runs)} runs; name one of them:", *(show(r.folder) for r in runs)])
        )
    return FoundGenerator(GeneratorFiles(runs[0].folder, which, raw, trusted), runs[0])


def _registered(
    name: str,
    store: Callable[[], Store | None],
    cache: Path,
    trusted: tuple[str, ...],
    otherwise: NoSuchRun | None = None,
) -> FoundGenerator:
    """A registered model's generator; `otherwise` is raised where the name may have meant something else."""
    from gantry.sharing.registry import find_model, models, run_of

    opened = store()
    known = [] if opened is None else models(opened.client)
    if opened is None or (otherwise is not None and name not in known):
        there_are = f"registered models: {', '.join(known) or 'none'}"
        raise UserError(f"{otherwise or f'run={name}: no such model'}; {there_are}") from otherwise
    files = ExportedFiles(find_model(opened.client, name, cache), trusted)
    trained_by = run_of(opened.client, name)
    return FoundGenerator(files, None if trained_by is None else _run_that_holds(files, trained_by, store, cache))


def _run_that_holds(
    files: ExportedFiles, run_id: str, store: Callable[[], Store | None], cache: Path
) -> FoundRun | None:
    """The run that is said to have trained a generator; None where it is gone or has other weights."""
    with suppress(UserError):
        (run,) = _find(run_id, store, cache)
        own = (ExportedFiles(run.folder / GENERATOR / which, ()) for which in ("best", "last"))
        return run if any(one.is_of(files.digest()) for one in own) else None
    return None


def _alone(found: FoundGenerator, which: str, raw: bool) -> FoundGenerator:
    """A generator that came without its run, of which there is nothing to choose."""
    if raw:
        raise UserError(f"raw: {found.title} holds the averaged generator alone; name its run for the other")
    if which not in ("best", found.files.folder.name):
        raise UserError(f"generator={which}: {found.title} holds one generator; name its run to choose")
    return found


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


def _find(name: str, store: Callable[[], Store | None], cache: Path) -> list[FoundRun]:
    folder = Path(name).expanduser().absolute()
    if folder.is_dir():
        if (folder / SWEEP_FILE).exists():
            return _of_sweep(folder)
        return [_here(folder)]
    known = _runs_here()
    if name in ("latest", "best"):
        if not known:
            raise UserError(f"run={name}: no run in {Path('outputs').absolute()}; python train.py makes one")
        return [_here(known[0] if name == "latest" else _best(known))]
    for folder in known:
        if (read_json(folder / RUN_FILE) or {}).get("run_id") == name:
            return [_here(folder)]
    opened = store()
    if opened is not None and (run := opened.get(name)) is not None:
        folder = Path(run.data.tags.get("gantry.folder", "/nowhere"))
        # Results are written there, so a store's word for where a run is is not enough.
        its_own = (read_json(folder / RUN_FILE) or {}).get("run_id") == name
        return [_here(folder) if its_own and (folder / GENERATOR).is_dir() else _fetched(opened, name, cache)]
    newest = "\n  ".join(["", *(show(folder) for folder in known[:NAMED])])
    there_are = f"the newest here:{newest}" if known else f"there is none in {Path('outputs').absolute()}"
    raise NoSuchRun(f"run={name}: no such run ({HOW}); {there_are}")


def _here(folder: Path) -> FoundRun:
    if not (folder / CONFIG_FILE).exists():
        raise UserError(f"run={show(folder)}: holds no run, which has a {CONFIG_FILE}")
    if not (folder / GENERATOR).is_dir():
        raise UserError(f"run={show(folder)}: the run has exported no generator; it does so when it is first measured")
    return FoundRun(folder.absolute(), (read_json(folder / RUN_FILE) or {}).get("run_id"))


def _of_sweep(folder: Path) -> list[FoundRun]:
    jobs = [folder / job.folder for job in load_sweep(folder).jobs]
    found = [_here(job) for job in jobs if (job / GENERATOR).is_dir()]
    if not found:
        raise UserError(f"run={show(folder)}: none of the sweep's {len(jobs)} runs has exported a generator")
    if len(found) < len(jobs):
        print(f"{len(jobs) - len(found)} of the sweep's runs have exported no generator: left out", flush=True)
    return found


def _runs_here() -> list[Path]:
    """The runs in `outputs` of the current folder that have exported a generator, the newest first."""
    folders = [
        path.parent.absolute()
        for depth in ("*/*", "*/*/*")
        for path in Path("outputs").glob(f"{depth}/{GENERATOR}")
        if (path.parent / CONFIG_FILE).exists()
    ]
    return sorted(folders, key=lambda folder: (folder / CONFIG_FILE).stat().st_mtime, reverse=True)


def _best(known: Sequence[Path]) -> Path:
    """The run with the lowest best value among those measured as the newest finished one was."""
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
    values = {folder: math.inf if value is None else value for folder, value in alike.items()}
    best = min(values, key=lambda folder: values[folder])
    said = f"the lowest best/{newest['primary']}, {values[best]:.4g}, of {len(values)} runs measured alike"
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
