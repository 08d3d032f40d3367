"""`python evaluate.py`: measures generators or images by a protocol, for numbers that can be published."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gantry.commands import cli
from gantry.core import errors
from gantry.core.config.check import check, refuse_absent
from gantry.core.config.options import Evaluate
from gantry.core.config.overrides import quoted
from gantry.core.errors import JobFailed, UserError
from gantry.core.files import check_writable, config_dir, new_output_folder
from gantry.core.processes.devices import chosen
from gantry.core.processes.signals import stoppable
from gantry.core.redaction import redact
from gantry.core.text import show, typed_command
from gantry.data.describe import describe, warnings_of
from gantry.data.images import ImageSet
from gantry.runs.find import WORDS
from gantry.runs.find_generators import FoundRun, find_generators
from gantry.runs.folder import TAGS_FILE, read_values, write_status
from gantry.runs.generators import GeneratorFiles
from gantry.runs.run_config import data_config, home_of, run_config
from gantry.runs.tracking.folder_tracker import FolderTracker
from gantry.runs.tracking.identity import read_plan
from gantry.runs.tracking.query import configured_store, store_of_run
from gantry.runs.tracking.rules import wrong_store
from gantry.runs.tracking.tracker import log

if TYPE_CHECKING:
    from gantry.evaluation.request import Plan
    from gantry.evaluation.result import Result


def main() -> None:
    """Run the command line of evaluate.py."""
    if get_args_parser().parse_known_args()[0].multirun:
        print("evaluate.py takes several runs as run=[...,...], or a sweep's folder: leave out -m", file=sys.stderr)
        sys.exit(errors.REFUSED)
    cli.run(job, config_dir(), "evaluate", around=stoppable())


def job(cfg: DictConfig) -> None:
    """Measure the generators or images of `cfg` in turn; one that fails does not stop the others.

    Raises:
        UserError: something that `cfg` names is not available.
        JobFailed: one of several subjects could not be measured.
    """
    _check(cfg)
    if cfg.out is not None:
        check_writable(Path(str(cfg.out)).expanduser().absolute())  # before runs are looked for
    subjects = list(_subjects(cfg))
    for folder in {subject.folder for subject in subjects}:
        check_writable(folder)
    if len(subjects) == 1:
        _evaluate(cfg, subjects[0])
        return
    measured: list[tuple[Subject, Result]] = []
    for number, subject in enumerate(subjects, start=1):
        print(f"[{number}/{len(subjects)}] {subject.title}", flush=True)
        try:
            measured.append((subject, _evaluate(cfg, subject)))
        except (UserError, JobFailed) as error:
            print(f"{subject.title}: {error}", file=sys.stderr, flush=True)
    if measured and measured[0][1].values:
        _compare(measured)
    if len(measured) < len(subjects):
        raise JobFailed(f"{len(subjects) - len(measured)} of {len(subjects)} runs could not be measured")


@dataclass(frozen=True)
class Subject:
    """A generator or a set of images to measure, and the folder of its results.

    Attributes:
        title: its name in output.
        folder: the folder of the results.
        run: the generator's run; None for images.
        data: the data set's config, as plain values.
        max_images: number of its images that the run was trained on; None: all.
        given: the user has named the data set.
    """

    title: str
    folder: Path
    run: FoundRun | None
    data: dict[str, Any]
    max_images: int | None
    given: bool = True


def _check(cfg: DictConfig) -> None:
    """Check the config, and report every problem at once."""
    refuse_absent(cfg, Evaluate)
    problems = []
    if (cfg.run is None) == (cfg.images is None):
        problems.append(
            f"run: say what to measure, run=<{WORDS}>, or images=<folder or .npz> data=..."
            if cfg.run is None
            else "run, images: give one of them"
        )
    if cfg.images is not None and "data" not in cfg:
        known = sorted(path.stem for path in (config_dir() / "data").glob("*.yaml"))
        problems.append(f"data: images are measured against a data set: data= one of {', '.join(known)}")
    if cfg.images is not None and not Path(str(cfg.images)).expanduser().exists():
        problems.append(f"images: {cfg.images} does not exist; it must be a folder with images, an .npz or an .npy")
    typed = any(text.lstrip("+").startswith("data.split=") for text in HydraConfig.get().overrides.task)
    if typed and cfg.data.get("split") != cfg.protocol.split:
        problems.append(
            f"data.split: the part of the data that is compared is protocol.split={cfg.protocol.split}; "
            "protocol=test10k compares with the test split"
        )
    if cfg.images is not None and cfg.repeats != 1:
        problems.append("repeats: images are one draw; 1 is all there is")
    try:
        check(cfg, Evaluate, (wrong_store,))
    except UserError as error:
        problems += str(error).splitlines()
    if problems:
        raise UserError("\n".join(problems))


def _subjects(cfg: DictConfig) -> Iterator[Subject]:
    out = None if cfg.out is None else Path(str(cfg.out)).expanduser().absolute()
    own: Any = OmegaConf.to_container(cfg.data, resolve=True) if "data" in cfg else None
    if cfg.images is not None:
        yield Subject(str(cfg.images), out or new_output_folder("evaluation"), None, own, None)
        return
    names = [str(name) for name in cfg.run] if OmegaConf.is_list(cfg.run) else [str(cfg.run)]
    runs = find_generators(names, lambda: configured_store(cfg.tracking), Path(cfg.paths.cache).expanduser())
    called = Counter(run.folder.name for run in runs)
    for run in runs:
        folder = out or run.folder
        if out and len(runs) > 1:
            folder = out / run.folder.parent.name / run.folder.name  # jobs of two sweeps may have one name
        data: Any = own or data_config(run.folder, cfg.trusted)
        config = run_config(run.folder)
        part = config.get("max_images") if data["_target_"] == config.data.get("_target_") else None
        whole = show(run.folder) if called[run.folder.name] > 1 else run.folder.name
        yield Subject(whole, folder, run, data, part, given=own is not None)


def _evaluate(cfg: DictConfig, subject: Subject) -> Result:
    from gantry.evaluation.evaluate import measure

    files: list[Path] = []
    result = measure(_plan(cfg, subject), lambda result: files.extend(result.save(subject.folder)), _show)
    if subject.run is None or subject.run.fetched or subject.folder != subject.run.folder:  # for comparisons with runs
        FolderTracker(subject.folder).set_tags({"variant": subject.title, "dataset": result.settings["data"]})
        write_status(subject.folder, "FINISHED", None)
    if subject.run is not None and subject.run.run_id is not None and cfg.tracking:
        _log(cfg, subject.run, result, files)
    print(result.text(), flush=True)
    print(f"\nrecord  {show(files[0])}", flush=True)
    return result


def _show(data: ImageSet) -> None:
    """Print what a set of images holds, and warn of what may be wrong with it."""
    print(describe(data), flush=True)
    for warning in warnings_of(data):
        log.warning("%s", warning)


def _compare(measured: Sequence[tuple[Subject, Result]]) -> None:
    """Print the table of these results, those that cannot be told apart, and the command for a report."""
    from gantry.reports.comparison import compare
    from gantry.reports.run import from_folder

    _, first = measured[0]
    metric = f"{first.key}/{next(iter(first.values))}"
    folders = [subject.folder for subject, _ in measured]
    comparison = compare([from_folder(folder) for folder in folders], "", Path(), metric=metric)
    mine = replace(comparison, rulers=[ruler for ruler in comparison.rulers if ruler.key == first.key])
    print(mine.evaluations_text(), flush=True)
    named = ",".join(quoted(path) if "," in path else path for path in map(show, folders))
    report = f"{typed_command('compare')} {shlex.quote(f'runs=[{named}]')} metric={metric}"
    print(f"\nreport  {report}", flush=True)


def _plan(cfg: DictConfig, subject: Subject) -> Plan:
    from gantry.evaluation.request import Plan, SampleFiles

    cache = Path(cfg.paths.cache).expanduser().absolute()  # the data set may be made in another folder
    what: GeneratorFiles | SampleFiles
    if subject.run is None:
        what = SampleFiles(str(Path(str(cfg.images)).expanduser().absolute()), cache)
    else:
        what = GeneratorFiles(subject.run.folder, cfg.generator, cfg.raw, ("gantry.models.networks.", *cfg.trusted))
    accelerator, devices = chosen(cfg.accelerator, cfg.devices)
    return Plan(
        protocol=_protocol(cfg),
        official=cfg.protocol.official,
        data=subject.data,
        max_images=subject.max_images,
        split=cfg.protocol.split,
        max_real=cfg.protocol.max_real,
        extractor=OmegaConf.to_container(cfg.extractor, resolve=True),  # type: ignore[arg-type]
        n=cfg.n,
        repeats=cfg.repeats,
        seed=cfg.seed,
        measures=tuple(OmegaConf.to_container(cfg.measures, resolve=True)),  # type: ignore[arg-type]
        subject=what,
        cache=cache,
        accelerator=accelerator,
        devices=devices,
        given=subject.given,
        **_trained_on(subject),
    )


def _trained_on(subject: Subject) -> dict[str, Any]:
    """Return what a run's record tells of the images it was trained on, as arguments of a `Plan`."""
    if subject.run is None:
        return {}
    folder = subject.run.folder
    home = None if subject.given else home_of(folder)
    digest = read_values(folder / TAGS_FILE).get("metrics.data_digest")
    return {"home": home and home.now, "digest": digest}


def _protocol(cfg: DictConfig) -> str:
    """Return the protocol's name, or "custom" where the command line has changed it."""
    changed = any(text.lstrip("+").startswith("protocol.") for text in HydraConfig.get().overrides.task)
    return "custom" if changed or cfg.n != cfg.protocol.n else str(cfg.protocol.name)


def _log(cfg: DictConfig, run: FoundRun, result: Result, files: Sequence[Path]) -> None:
    """Log a result to its run in MLflow; a failure is only a warning, since the folder has the result."""
    from gantry.evaluation.mlflow_log import log_result

    assert run.run_id is not None
    try:
        plan = read_plan(run.folder)  # its address is absolute, that in the config as it was typed
        typed = str(run_config(run.folder).get("tracking", {}).get("uri", ""))
        uris = [str(cfg.tracking.uri), typed, plan.uri if plan else ""]
        store = store_of_run(run.run_id, uris, str(cfg.tracking.experiment))
        if store is not None:
            log_result(store.client, run.run_id, result, files)
            return
        log.warning("The evaluation is not in MLflow: no run %s in %s", run.run_id, redact(str(cfg.tracking.uri)))
    except Exception as error:  # any error of MLflow, the network or a server
        log.warning("The evaluation is not in MLflow, only in the run's folder: %s", redact(str(error)))
