"""Finds a generator by name: that of a run, one exported to a folder, or a registered one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gantry.core.errors import UserError
from gantry.core.text import show
from gantry.generation.registry.names import REGISTERED
from gantry.runs.find import WORDS, NoSuchRun, Opener
from gantry.runs.find_generators import FoundRun, find_generators, run_in
from gantry.runs.folder import BEST, CONFIG_FILE, EXPORTED, GENERATOR, LAST
from gantry.runs.generators import ExportedFiles, GeneratorFiles
from gantry.runs.sweep_record import SWEEP_FILE

GENERATORS = f"{WORDS}, an exported generator's folder, or a registered model"


@dataclass(frozen=True)
class FoundGenerator:
    """A generator that was found by name.

    Attributes:
        files: its files.
        run: its run; None if it was found without one.
        model: `models:/<name>/<version>` of a registered one; None of others.
    """

    files: ExportedFiles | GeneratorFiles
    run: FoundRun | None = None
    model: str | None = None

    @property
    def title(self) -> str:
        """Its name on the terminal."""
        return show(self.files.folder)


def find_generator(
    name: str, which: str, raw: bool, trusted: tuple[str, ...], store: Opener, cache: Path, option: str = "run"
) -> FoundGenerator:
    """Find the generator a user names: of a run (see `find_generators`), an exported folder, or a registered model.

    Args:
        name: its name, see `GENERATORS`.
        which, raw, trusted: see `GeneratorFiles`; the first two choose among a run's.
        store, cache, option: see `find_generators`.

    Raises:
        UserError: there is no such generator, several, or not the raw one.
    """
    folder = Path(name).expanduser().absolute()
    if (folder / EXPORTED).is_file():
        run = folder.parent.parent if folder.parent.name == GENERATOR else None
        of_run = run is not None and (run / CONFIG_FILE).exists()
        return _alone(
            FoundGenerator(ExportedFiles(folder, trusted), run_in(run, option) if of_run and run else None), which, raw
        )
    if folder.is_dir() and not (folder / CONFIG_FILE).exists() and not (folder / SWEEP_FILE).exists():
        raise UserError(
            f"{option}={show(folder)}: holds neither a run, which has a {CONFIG_FILE}, nor an exported generator, "
            f"which has a {EXPORTED}"
        )
    if name.startswith(REGISTERED):
        return _alone(_registered(name, store, cache, trusted, option), which, raw)
    try:
        runs = find_generators([name], store, cache, by_name=False, option=option)
    except NoSuchRun:
        names = _models(store)
        if name.partition("@")[0] in names:
            return _alone(_registered(name, store, cache, trusted, option), which, raw)
        try:
            runs = find_generators([name], store, cache, option=option)
        except NoSuchRun as error:
            raise NoSuchRun(f"{error}; registered models: {', '.join(names) or 'none'}") from None
    if len(runs) > 1:
        raise UserError(
            "\n  ".join([f"{option}={name}: {len(runs)} runs; name one of them:", *(show(r.folder) for r in runs)])
        )
    return FoundGenerator(GeneratorFiles(runs[0].folder, which, raw, trusted), runs[0])


def _models(store: Opener) -> list[str]:
    from gantry.generation.registry.find import models

    opened = store()
    return [] if opened is None else models(opened.client)


def _registered(name: str, store: Opener, cache: Path, trusted: tuple[str, ...], option: str) -> FoundGenerator:
    """Return a registered model's generator."""
    from gantry.generation.registry.find import find_model, numbered, run_of

    opened = store()
    if opened is None:
        raise UserError(f"{option}={name}: no such model; registered models: none")
    version = numbered(opened.client, name, option)
    files = ExportedFiles(find_model(opened.client, version, cache, option), trusted)
    trained_by = run_of(opened.client, version, option)
    run = None if trained_by is None else _run_that_holds(files, trained_by, store, cache)
    return FoundGenerator(files, run, version)


def _run_that_holds(files: ExportedFiles, run_id: str, store: Opener, cache: Path) -> FoundRun | None:
    """Return the run that is recorded as a generator's origin; None if it is missing or has other weights."""
    with suppress(UserError):
        (run,) = find_generators([run_id], store, cache, by_name=False)
        own = (ExportedFiles(run.folder / GENERATOR / which, ()) for which in (BEST, LAST))
        return run if any(one.is_of(files.digest()) for one in own) else None
    return None


def _alone(found: FoundGenerator, which: str, raw: bool) -> FoundGenerator:
    """Return a generator without a run; refuse options that choose among a run's generators."""
    if raw:
        raise UserError(f"raw: {found.title} holds the averaged generator alone; name its run for the other")
    if which not in (BEST, found.files.folder.name):
        raise UserError(f"generator={which}: {found.title} holds one generator; name its run to choose")
    return found
