"""What `python evaluate.py` measures: a run's generator, found by what a user may call it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.errors import UserError
from gantry.core.text import show
from gantry.runs.find import FoundRun, NoSuchRun, find_generator_runs, find_runs, run_in
from gantry.runs.folder import CONFIG_FILE, EXPORTED, GENERATOR
from gantry.runs.generators import ExportedFiles, GeneratorFiles
from gantry.runs.sweep_record import SWEEP_FILE

if TYPE_CHECKING:
    from gantry.runs.tracking.query import Store


REGISTERED = "models:/"
GENERATORS = "a run's folder, its MLflow id, latest, best, an exported generator's folder, or a registered model"


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
            FoundGenerator(ExportedFiles(folder, trusted), run_in(run) if of_run and run else None), which, raw
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
    from gantry.generation.registry.find import find_model, models, run_of

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
        (run,) = find_generator_runs(run_id, store, cache)
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
